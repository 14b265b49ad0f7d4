"""Images of trees: what must be refused, the limits, and that nothing of a tree is lost."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given, settings

from cfsrepo.errors import InputError, LimitError, UsageError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.images.load import load_tree
from tests.formats.formats_helpers import (
    dump_bytes,
    dump_of_image,
    image_bytes,
    tree_of,
    trees,
    versions,
)

ROOT = b"/ 4096 40755 2 0 0 0 0.0 - - -\n"


def file(**fields: object) -> Inode:
    inode = Inode(stat.S_IFREG | 0o644)
    for name, value in fields.items():
        setattr(inode, name, value)
    return inode


def root_with(**entries: Inode) -> Inode:
    root = directory()
    assert root.entries is not None
    root.entries.update((name.encode(), inode) for name, inode in entries.items())
    return root


@given(trees, versions)
def test_nothing_of_a_tree_is_lost(root: Inode, version: tuple[int, int]) -> None:
    image = image_bytes(root, *version)
    dump = dump_bytes(root, *version)
    assert dump_of_image(image) == dump
    assert len(image) % layout.BLOCK_SIZE == 0
    loaded = load_tree(ErofsImage(image))
    again = image_bytes(loaded, *version)
    assert image_bytes(tree_of(dump), *version) == again
    assert dump_bytes(loaded, *version) == dump_of_image(again)


@given(trees)
@settings(max_examples=30)
def test_the_tree_stays_as_it_is(root: Inode) -> None:
    before = dump_bytes(root)
    first = image_bytes(root)
    assert dump_bytes(root) == before
    assert image_bytes(root) == first


@given(trees)
@settings(max_examples=30)
def test_dump_with_homes_gives_the_same_image(root: Inode) -> None:
    assert image_bytes(tree_of(dump_bytes(root, keep_homes=True))) == image_bytes(root)


@pytest.mark.parametrize(
    ("min_version", "max_version", "whiteout", "version"),
    [(0, 1, False, 0), (0, 1, True, 1), (0, 0, True, 0), (1, 1, False, 1), (1, 0, False, 1)],
)
def test_version_is_raised_for_whiteouts(
    min_version: int, max_version: int, whiteout: bool, version: int
) -> None:
    device = Inode(stat.S_IFCHR, rdev=0 if whiteout else 1)
    image = image_bytes(root_with(x=device), min_version, max_version)
    assert ErofsImage(image).version == version


@pytest.mark.parametrize(("low", "high"), [(3, 3), (-1, 1), (0, 2), (1, 2)])
def test_unknown_versions(low: int, high: int) -> None:
    with pytest.raises(UsageError, match="no image format"):
        image_bytes(directory(), low, high)


def test_the_name_that_carries_a_hard_link_orders_the_inodes() -> None:
    """In a dump any name of an inode can have the line; it decides the inode's number."""
    line = b" 1 100644 2 0 0 0 0.0 x - -\n"
    other = b"/ab 2 100644 2 0 0 0 0.0 x - -\n"
    first = tree_of(ROOT + b"/aa" + line + other + b"/ac 1 @100644 2 0 0 0 0.0 /aa - -\n")
    last = tree_of(ROOT + b"/aa 1 @100644 2 0 0 0 0.0 /ac - -\n" + other + b"/ac" + line)
    assert image_bytes(first) != image_bytes(last)
    assert dump_bytes(first) == dump_bytes(last)
    assert last.entries is not None
    last.entries[b"aa"].home = None
    assert image_bytes(last) == image_bytes(first)
    last.entries[b"aa"].home = (last, b"gone")
    assert image_bytes(last) == image_bytes(first)


def test_a_directory_has_one_place() -> None:
    below = directory()
    with pytest.raises(InputError, match="/a: the directory is hard-linked"):
        image_bytes(root_with(a=below, b=below))
    below.entries = {b"loop": below}
    with pytest.raises(InputError, match="loop: the directory is hard-linked"):
        image_bytes(root_with(a=below))
    root = directory()
    root.entries = {b"root": root}
    with pytest.raises(InputError, match="/root: the directory is hard-linked"):
        image_bytes(root)


REFUSED: dict[str, tuple[Inode, str]] = {
    "root is a file": (file(), "root of a tree must be a directory"),
    "no type": (root_with(a=Inode(0o644)), "/a: mode 644"),
    "directory without entries": (root_with(a=Inode(stat.S_IFDIR)), "/a: mode 40000"),
    "file with entries": (root_with(a=Inode(stat.S_IFREG, entries={})), "/a: mode 100000"),
    "content of other length": (root_with(a=file(size=4, content=b"abc")), "3 bytes in a file of"),
    "large content": (root_with(a=file(size=5001, content=bytes(5001))), "is over 5000"),
    "large file": (root_with(a=file(size=(1 << 53) + 1)), "9007199254740993 bytes are over"),
    "negative size": (root_with(a=file(size=-1)), "out of range"),
    "digest": (root_with(a=file(size=1, digest=b"x" * 20)), "digest of 20 bytes"),
    "long payload": (root_with(a=file(size=1, payload=b"p" * 4096)), "up to 4095 bytes"),
    "NUL in payload": (root_with(a=file(size=1, payload=b"p\0")), "no NUL"),
    "empty symlink": (root_with(a=Inode(stat.S_IFLNK, payload=b"")), "symlink's target"),
    "no target": (root_with(a=Inode(stat.S_IFLNK)), "symlink's target"),
    "long target": (root_with(a=Inode(stat.S_IFLNK, payload=b"t" * 4096)), "symlink's target"),
    "NUL in target": (root_with(a=Inode(stat.S_IFLNK, payload=b"t\0")), "symlink's target"),
    "uid": (root_with(a=file(uid=1 << 32)), "/a: owner, size, device number or mtime"),
    "gid": (root_with(a=file(gid=-1)), "/a: owner, size, device number or mtime"),
    "device": (root_with(a=Inode(stat.S_IFBLK, rdev=1 << 32)), "/a: owner, size, device"),
    "mtime": (root_with(a=file(mtime_sec=1 << 63)), "/a: owner, size, device number or mtime"),
    "nsec": (root_with(a=file(mtime_nsec=1 << 32)), "/a: owner, size, device number or mtime"),
    "xattr name": (root_with(a=file(xattrs={b"": b""})), "not a valid name of"),
    "long xattr name": (root_with(a=file(xattrs={b"k" * 256: b""})), "not a valid name of"),
    "NUL in xattr name": (root_with(a=file(xattrs={b"k\0": b""})), "not a valid name of"),
    "large xattrs": (root_with(a=file(xattrs={b"k": bytes(32748)})), "/a: extended attributes"),
    "xattrs of the root": (
        Inode(stat.S_IFDIR, entries={}, xattrs={b"": b""}),
        "/: b'' is not a",
    ),
}


@pytest.mark.parametrize(("root", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(root: Inode, reason: str) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*\Z") as caught:
        image_bytes(root)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_names_that_are_none(name: bytes) -> None:
    root = directory()
    root.entries = {b"d": directory()}
    root.entries[b"d"].entries = {name: file(), b"good": file()}
    with pytest.raises(InputError, match=r"\A/d: .* is not a valid file name"):
        image_bytes(root)


def test_long_names() -> None:
    image_bytes(root_with(**{"n" * 255: file()}))
    with pytest.raises(LimitError, match="a name of 256 bytes"):
        image_bytes(root_with(**{"n" * 256: file()}))


def test_depth_of_a_thousand() -> None:
    root = below = directory()
    for level in range(1000):
        assert below.entries is not None
        deeper = directory()
        below.entries[b"%03d" % level * 80] = deeper
        below = deeper
    image = image_bytes(root)
    dump = dump_of_image(image)
    assert dump.count(b"\n") == 1001
    assert max(map(len, dump.split(b"\n"))) > 240_000
    assert image_bytes(tree_of(dump)) == image


def test_a_directory_of_100_000_entries() -> None:
    root = directory()
    root.entries = {
        b"big": Inode(
            stat.S_IFDIR | 0o755, entries={b"%06d" % i: directory() for i in range(70_000)}
        ),
        b"files": Inode(
            stat.S_IFDIR | 0o755, entries={b"%06d" % i: file() for i in range(100_000)}
        ),
    }
    image = ErofsImage(image_bytes(root))
    assert image.inode_count == 1 + 256 + 2 + 170_000
    big = image.lookup_path(b"/big")
    files = image.lookup_path(b"/files")
    assert big is not None
    assert files is not None
    assert image.inode(big).nlink == 70_002
    assert image.lookup(files, b"099999") is not None
    assert sum(1 for _ in image.readdir(files)) == 100_002


def test_sparse_files_of_terabytes() -> None:
    sizes = [1, 4096, 1 << 40, 1 << 43, (1 << 43) + 1, 123 << 42, 1 << 53]
    root = root_with(**{f"f{i}": file(size=size) for i, size in enumerate(sizes)})
    loaded = load_tree(ErofsImage(image_bytes(root)))
    assert loaded.entries is not None
    assert [inode.size for _, inode in sorted(loaded.entries.items())] == sizes


def test_as_many_xattrs_as_fit() -> None:
    many = {b"user.%d" % i: b"" for i in range(2000)}
    for count in range(2000, 0, -1):
        if layout.xattrs_size(many) <= layout.XATTR_AREA_MAX:
            break
        many.pop(b"user.%d" % (count - 1))
    large = {b"user.x": bytes(range(256)) * 127}
    root = root_with(
        a=file(xattrs=many, size=5), b=file(xattrs=many, size=5), c=file(xattrs=large), d=file()
    )
    image = ErofsImage(image_bytes(root))
    for name, expected in ((b"a", many), (b"b", many), (b"c", large)):
        nid = image.lookup_path(name)
        assert nid is not None
        assert image.xattrs(nid) == expected
