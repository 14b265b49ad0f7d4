"""The view: an image as a file system, without any mount."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import walk
from cfsrepo.images.owners import Owners, Range
from cfsrepo.images.verified import ObjectDirectory
from cfsrepo.images.view import ImageView, stat_blocks
from tests.fuse.fuse_helpers import Sample, sample


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tmp_path)


def names(view: ImageView, path: bytes) -> list[bytes]:
    return [name for _, name, _ in view.readdir(view.resolve(path))]


def test_the_whiteouts_of_the_image_are_not_there_but_real_entries_are(made: Sample) -> None:
    view = made.view()
    listed = set(names(view, b"/"))
    assert listed == {b".", b"..", *(made.root.entries or {})}
    assert {b"00", b"7f"} <= listed
    assert view.lookup(view.root, b"01") is None
    assert view.lookup(view.root, b"00") is not None


def test_a_whiteout_of_the_tree_is_an_empty_file_with_marks(made: Sample) -> None:
    view = made.view()
    nid = view.resolve(b"/whited/gone")
    assert view.attributes(nid).mode == stat.S_IFREG
    assert view.open(nid).read(0, 10) == b""
    assert view.xattrs(nid, trusted=True) == {
        b"trusted.overlay.whiteout": b"",
        b"user.overlay.whiteout": b"",
    }
    assert b"trusted.overlay.opaque" in view.xattrs(view.resolve(b"/whited"), trusted=True)


def test_every_file_has_its_content(made: Sample) -> None:
    view = made.view()
    for path, content in made.contents.items():
        opened = view.open(view.resolve(path))
        assert bytes(opened.read(0, len(content) + 10)) == content, path
        assert bytes(opened.read(len(content), 10)) == b""
        if len(content) > 10:
            assert bytes(opened.read(7, 3)) == content[7:10]
            assert bytes(opened.read(len(content) - 3, 4096)) == content[-3:]
        opened.close()


def test_every_path_resolves_and_every_directory_lists(made: Sample) -> None:
    view = made.view()
    for path, inode in walk(made.root):
        nid = view.resolve(path)
        if inode.entries is not None:
            assert names(view, path) == sorted([b".", b"..", *inode.entries])
            assert view.attributes(nid).nlink == 2 + sum(
                entry.is_dir for entry in inode.entries.values()
            )


def test_only_regular_files_can_be_opened(made: Sample) -> None:
    view = made.view()
    for path, code in (
        (b"/many", errno.EISDIR),
        (b"/fifo", errno.EINVAL),
        (b"/null", errno.EINVAL),
        (b"/symlink", errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says which
            view.open(view.resolve(path))
        assert caught.value.errno == code


def test_paths_that_are_not_there(made: Sample) -> None:
    view = made.view()
    for path in (b"/no", b"/inline/x", b"/many/no", b"/symlink/x", b"/01"):
        with pytest.raises(NotFoundError, match="no such file"):
            view.resolve(path)
        with pytest.raises(NotFoundError):
            view.follow(path)


def test_following_symlinks_stays_inside(tmp_path: Path) -> None:
    from cfsrepo.formats.tree import Inode, directory
    from tests.fuse.fuse_helpers import Maker

    def link(target: bytes) -> Inode:
        return Inode(stat.S_IFLNK | 0o777, payload=target)

    maker = Maker()
    root, sub = directory(), directory()
    assert root.entries is not None
    assert sub.entries is not None
    root.entries.update(
        {
            b"file": maker.file(b"found"),
            b"sub": sub,
            b"absolute": link(b"/sub/up"),
            b"escape": link(b"../../../../file"),
            b"loop": link(b"loop"),
            b"a": link(b"b"),
            b"b": link(b"a/x"),
        }
    )
    sub.entries.update({b"up": link(b"../file"), b"here": link(b".//up")})
    view = maker.write(root, tmp_path).view()
    for path in (b"/absolute", b"escape", b"/sub/here", b"/sub/../sub/up", b"//file"):
        assert view.follow(path) == view.resolve(b"/file")
    assert view.follow(b"/..") == view.root
    for path in (b"/loop", b"/a"):
        with pytest.raises(NotFoundError, match="too many symlinks"):
            view.follow(path)


def test_a_subdirectory_as_root(made: Sample) -> None:
    image = made.image
    view = ImageView(image, ObjectDirectory(made.object_dir), subdir=b"/deep/d/")
    assert view.lookup(view.root, b"..") == view.root
    assert {name: nid for _, name, nid in view.readdir(view.root)}[b".."] == view.root
    assert view.resolve(b"/d") == image.lookup_path(b"/deep/d/d")
    with pytest.raises(NotFoundError, match="not a directory"):
        ImageView(image, ObjectDirectory(made.object_dir), subdir=b"inline")
    with pytest.raises(NotFoundError):
        ImageView(image, ObjectDirectory(made.object_dir), subdir=b"nowhere")


def test_owners_are_changed_as_asked(made: Sample) -> None:
    def shown(path: bytes, owners: Owners) -> tuple[int, int]:
        view = ImageView(made.image, ObjectDirectory(made.object_dir), owners=owners)
        attributes = view.attributes(view.resolve(path))
        return attributes.uid, attributes.gid

    assert shown(b"/inline", Owners()) == (1000, 1001)
    assert shown(b"/inline", Owners(uid=5)) == (5, 1001)
    ranges = (Range(0, 100000, 1001),)
    assert shown(b"/inline", Owners(uid_ranges=ranges, gid_ranges=ranges)) == (101000, 65534)
    assert shown(b"/far", Owners(gid=9)) == ((1 << 32) - 2, 9)


def test_the_path_of_an_inode(made: Sample) -> None:
    view = made.view()
    for path in (b"/many/entry-0100", b"/deep/d/d", b"/"):
        assert view.path_of(view.resolve(path)) == path
    assert view.path_of(1) is None


def test_sizes_in_blocks() -> None:
    assert [stat_blocks(size) for size in (0, 1, 4096, 4097)] == [0, 8, 8, 16]


def test_usage_is_the_image(made: Sample) -> None:
    usage = made.view().usage()
    assert usage.blocks == made.image_file.stat().st_size // 4096
    assert usage.files == made.image.inode_count


@pytest.mark.parametrize("size", [1, 100 << 30], ids=["1 byte", "100 GB"])
def test_a_file_without_object(tmp_path: Path, size: int) -> None:
    """Neither content nor object: composefs can make it, the kernel answers EIO."""
    from cfsrepo.formats.tree import Inode, directory
    from tests.fuse.fuse_helpers import Maker

    root = directory()
    assert root.entries is not None
    root.entries[b"nothing"] = Inode(stat.S_IFREG | 0o644, size=size)
    view = Maker().write(root, tmp_path).view()
    nid = view.resolve(b"/nothing")
    assert view.attributes(nid).size == size
    with pytest.raises(OSError, match="neither") as caught:
        view.open(nid)
    assert caught.value.errno == errno.EIO


def test_a_hole_without_marks_is_zeros(tmp_path: Path) -> None:
    """What plain EROFS would show: a chunk based file all of whose chunks are holes."""
    from cfsrepo.formats.tree import Inode, directory
    from tests.fuse.fuse_helpers import Maker

    root = directory()
    assert root.entries is not None
    root.entries[b"hole"] = Inode(stat.S_IFREG | 0o644, size=1 << 40)
    made = Maker().write(root, tmp_path)
    data = bytearray(made.image_file.read_bytes())
    nid = ErofsImage(bytes(data)).lookup_path(b"/hole")
    assert nid is not None
    offset = nid << layout.SLOT_BITS
    data[data.index(b"overlay.metacopy", offset)] ^= 1  # the mark gets another name
    view = ImageView(ErofsImage(bytes(data)), ObjectDirectory(made.object_dir))
    content = view.open(view.resolve(b"/hole"))
    assert content.read(1 << 39, 4096) == bytes(4096)
    assert content.read((1 << 40) - 5, 4096) == bytes(5)
    assert content.read_ready(1 << 40, 1) == b""


def test_paths_of_objects_cannot_leave_the_directory(tmp_path: Path) -> None:
    from cfsrepo.formats.tree import Inode, directory
    from tests.fuse.fuse_helpers import Maker

    (tmp_path / "secret").write_bytes(b"secret")
    root = directory()
    assert root.entries is not None
    targets = [b"../secret", os.fsencode(tmp_path / "secret"), b"xx/../../secret", b"link"]
    for number, target in enumerate(targets):
        root.entries[b"%d" % number] = Inode(stat.S_IFREG | 0o644, size=6, payload=target)
    made = Maker().write(root, tmp_path)
    (made.object_dir / "xx").mkdir()
    (made.object_dir / "link").symlink_to("../secret")
    view = made.view()
    for number in range(len(targets)):
        with pytest.raises(OSError, match="object") as caught:
            view.open(view.resolve(b"/%d" % number))
        assert caught.value.errno == errno.EIO
