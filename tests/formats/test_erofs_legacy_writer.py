"""Images of version 2, composefs-rs's older format. Their bytes: test_formats_interop."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given

from cfsrepo.errors import InputError, LimitError, UsageError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import Inode, directory, walk
from cfsrepo.images.load import load_tree
from cfsrepo.images.make import Maker, make_image
from tests.formats.formats_helpers import dump_of_image, image_bytes, tree_of, trees
from tests.formats.test_erofs_writer import file, root_with

DIGEST = bytes(range(32))


def fit(root: Inode) -> Inode:
    """`root`, changed to what a version 2 image can hold, and as it would be read again."""
    names: dict[Inode, int] = {}
    for _, inode in walk(root):
        names[inode] = names.get(inode, 0) + 1
    for inode, count in names.items():
        inode.mtime_nsec = 0
        if not inode.is_dir:
            inode.nlink = count
        if inode.is_regular and inode.content is None and inode.size:
            inode.size = min(inode.size, 1 << 43)
            inode.payload, inode.digest = inode.payload or b"x", inode.digest or DIGEST
        elif inode.content is not None:
            inode.content = inode.content[:4095]
            inode.size = len(inode.content)
    return root


@given(trees)
def test_nothing_of_a_tree_is_lost(root: Inode) -> None:
    image = image_bytes(fit(root), 2, 2)
    assert ErofsImage(image).version == 2
    loaded = load_tree(ErofsImage(image))
    assert image_bytes(loaded, 2, 2) == image
    first = [(p, i.mode, i.uid, i.gid, i.rdev, i.mtime_sec, i.digest) for p, i in walk(root)]
    again = [(p, i.mode, i.uid, i.gid, i.rdev, i.mtime_sec, i.digest) for p, i in walk(loaded)]
    assert again == first
    assert tree_of(dump_of_image(image))


def test_whiteouts_stay_devices_and_nothing_is_added() -> None:
    image = image_bytes(root_with(gone=Inode(stat.S_IFCHR | 0o644)), 2, 2)
    assert ErofsImage(image).inode_count == 2
    assert b"/gone 0 20644 1 " in dump_of_image(image)


def test_link_counts_are_counted() -> None:
    linked = file(nlink=77)
    image = ErofsImage(image_bytes(root_with(a=linked, b=linked, c=file(nlink=5)), 2, 2))
    for name, count in ((b"a", 2), (b"b", 2), (b"c", 1)):
        nid = image.lookup_path(name)
        assert nid is not None
        assert image.inode(nid).nlink == count
    assert image.lookup_path(b"a") == image.lookup_path(b"b")


def test_depth_of_a_thousand() -> None:
    root = below = directory()
    for _ in range(1000):
        below.entries = {b"d": directory()}
        below = below.entries[b"d"]
    assert dump_of_image(image_bytes(root, 2, 2)).count(b"\n") == 1001


LOOP = directory()
LOOP.entries = {b"again": LOOP}
TWICE = directory()
REFUSED: dict[str, tuple[Inode, str]] = {
    "root is a file": (file(), "root of a tree must be a directory"),
    "no type": (root_with(a=Inode(0o644)), "/a: mode 644"),
    "directory without entries": (root_with(a=Inode(stat.S_IFDIR)), "/a: mode 40000"),
    "no digest": (root_with(a=file(size=1, payload=b"x")), "/a: a file outside a version 2"),
    "no path": (root_with(a=file(size=1, digest=DIGEST)), "/a: a file outside a version 2"),
    "NUL in path": (root_with(a=file(size=1, digest=DIGEST, payload=b"\0")), "/a: the path of"),
    "other content": (root_with(a=file(size=2, content=b"x")), "/a: content of another length"),
    "large content": (root_with(a=file(size=4096, content=bytes(4096))), "is over 4095"),
    "large file": (
        root_with(a=file(size=(1 << 43) + 1, digest=DIGEST, payload=b"x")),
        "bytes are over 8796093022208",
    ),
    "no target": (root_with(a=Inode(stat.S_IFLNK)), "/a: a symlink's target"),
    "xattr": (
        root_with(a=file(xattrs={b"": b""})),
        "/a: b'' is not a valid name of",
    ),
    "name": (root_with(**{"n" * 256: file()}), "/: a name of 256 bytes"),
    "uid": (root_with(a=file(uid=1 << 32)), "out of range"),
    "loop": (LOOP, "/again: the directory is hard-linked or contains itself"),
    "two places": (root_with(a=TWICE, b=TWICE), "/b: the directory is hard-linked"),
}


@pytest.mark.parametrize(("root", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(root: Inode, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        image_bytes(root, 2, 2)
    assert reason in str(caught.value)


def test_more_shared_xattrs_than_fit() -> None:
    many = {b"user.%d" % i: b"" for i in range(256)}
    with pytest.raises(LimitError, match="more than 255"):
        image_bytes(root_with(a=file(xattrs=many), b=file(xattrs=many)), 2, 2)


def test_mkcomposefs_does_not_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(UsageError, match="knows no images of version 2"):
        make_image(directory(), maker=Maker.BOTH, min_version=2, max_version=2)
