"""The image reader: all that a tree says is found again, and damage is an InputError only."""

from __future__ import annotations

import errno
import random
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.errors import InputError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import walk
from tests.fuse.fuse_helpers import Sample, flip, sample


@pytest.fixture(params=[0, 1], ids=["v0", "v1"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Sample:
    return sample(tmp_path, version=request.param)


def test_every_inode_says_what_the_tree_says(made: Sample) -> None:
    image = made.image
    for path, inode in walk(made.root):
        nid = image.lookup_path(path)
        assert nid is not None, path
        info = image.inode(nid)
        if inode.is_whiteout:
            assert info.mode == stat.S_IFREG | stat.S_IMODE(inode.mode)
            continue
        assert (info.mode, info.uid, info.gid) == (inode.mode, inode.uid, inode.gid), path
        assert (info.mtime_sec, info.mtime_nsec) == (inode.mtime_sec, inode.mtime_nsec), path
        if inode.is_device:
            assert info.rdev == inode.rdev
        if inode.is_symlink:
            assert image.readlink(nid) == inode.payload
            assert info.size == len(inode.payload or b"")
        if inode.is_regular:
            assert (info.size, info.nlink) == (inode.size, inode.nlink)
            backing = image.backing(nid)
            if inode.digest is None:
                assert backing is None
                assert image.inline_data(nid) == (inode.content or b"")
            else:
                assert image.inline_data(nid) is None
                assert backing is not None
                assert (backing.path, backing.digest) == (inode.payload, inode.digest)


def test_hard_links_are_one_inode(made: Sample) -> None:
    nids = {made.image.lookup_path(path) for path in (b"/link-a", b"/link-b", b"/7f/link-c")}
    assert len(nids) == 1


def test_names_that_are_not_there(made: Sample) -> None:
    image = made.image
    many = image.lookup_path(b"/many")
    assert many is not None
    for name in (b"", b"!", b"-", b"entry-", b"entry-0100x", b"entry-9999", b"zz", b"\xff" * 255):
        assert image.lookup(many, name) is None
    for path in (b"/no", b"/inline/x", b"/many/entry-0001/..", b"/symlink/x"):
        assert image.lookup_path(path) is None


def test_lookup_below_a_file_is_refused(made: Sample) -> None:
    nid = made.image.lookup_path(b"/inline")
    assert nid is not None
    with pytest.raises(NotADirectoryError):
        made.image.lookup(nid, b"x")
    with pytest.raises(NotADirectoryError):
        list(made.image.readdir(nid))


def test_a_directory_can_be_read_on_from_every_position(made: Sample) -> None:
    image = made.image
    many = image.lookup_path(b"/many")
    assert many is not None
    whole = list(image.readdir(many))
    names = [name for _, name, _, _ in whole]
    assert names == sorted(names)
    assert len(names) == 602
    positions = [position for position, _, _, _ in whole]
    assert positions == sorted(set(positions))
    for index in (0, 1, 100, 500, 599, 600, 601):
        assert list(image.readdir(many, positions[index])) == whole[index + 1 :]
    assert list(image.readdir(many, 1 << 40)) == []


def test_xattrs_as_stored_and_as_shown(made: Sample) -> None:
    image = made.image
    nid = image.lookup_path(b"/xattrs")
    assert nid is not None
    raw = image.raw_xattrs(nid)
    assert raw[b"trusted.overlay.overlay.redirect"] == b"/of the tree"
    assert raw[b"trusted.overlay.redirect"].startswith(b"/")
    shown = image.xattrs(nid)
    inode = (made.root.entries or {})[b"xattrs"]
    assert shown == inode.xattrs
    assert set(image.xattrs(nid, trusted=False)) == {
        name for name in shown if not name.startswith(b"trusted.")
    }
    plain = image.lookup_path(b"/file-4096")
    assert plain is not None
    assert not image.has_visible_xattrs(plain)
    assert image.has_visible_xattrs(nid)


def patched(offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(form, data, offset, value)


@pytest.mark.parametrize(
    "damage",
    [
        patched(0, "<I", 0x12345678),
        patched(4, "<I", 2),
        patched(12, "<I", 3),
        patched(1024, "<I", 0),
        patched(1024 + 12, "<B", 9),
        patched(1024 + 14, "<H", 1),
        patched(1024 + 36, "<I", 0xFFFFFFF),
        patched(1024 + 80, "<I", 1),
        lambda data: data.__delitem__(slice(1151, None)),
        lambda data: data.__delitem__(slice(-4096, None)),
        lambda data: data.clear(),
    ],
    ids=[
        "magic",
        "header version",
        "composefs version",
        "EROFS magic",
        "block size",
        "root",
        "blocks",
        "features",
        "short",
        "cut",
        "empty",
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, damage: Callable[[bytearray], object]) -> None:
    data = bytearray(sample(tmp_path).image_file.read_bytes())
    damage(data)
    with pytest.raises(InputError, match="the file"):
        ErofsImage(bytes(data), "the file")


def read_everything(image: ErofsImage) -> int:
    """Ask for all there is; returns how much of it was refused."""
    refused = 0
    seen = {image.root_nid}
    pending = [image.root_nid]
    while pending:
        directory = pending.pop()
        try:
            entries = list(image.readdir(directory))
        except InputError:
            refused += 1
            continue
        for position, name, nid, _ in entries:
            assert 0 < len(name) <= layout.NAME_MAX
            assert position > 0
            if nid in seen:
                continue
            seen.add(nid)
            try:
                ask(image, directory, name, nid, pending)
            except InputError:
                refused += 1
            except OSError as error:
                # A file type that its directory entry does not have.
                refused += error.errno in (errno.ENOTDIR, errno.EINVAL)
    return refused


def ask(image: ErofsImage, directory: int, name: bytes, nid: int, pending: list[int]) -> None:
    info = image.inode(nid)
    image.lookup(directory, name)
    image.raw_xattrs(nid)
    image.xattrs(nid)
    if stat.S_ISDIR(info.mode):
        pending.append(nid)
    elif stat.S_ISLNK(info.mode):
        assert len(image.readlink(nid)) <= layout.SYMLINK_MAX
    elif stat.S_ISREG(info.mode):
        image.backing(nid)
        if info.layout == layout.LAYOUT_CHUNK_BASED:
            image.is_sparse(nid)
        else:
            image.read_inline(info, 0, 1 << 40)


def test_damage_anywhere_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    whole = sample(tmp_path).image_file.read_bytes()
    generator = random.Random(20)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 200)):
            flip(data, generator)
        try:
            image = ErofsImage(bytes(data), "sample")
        except InputError:
            continue
        refused += read_everything(image)
    assert refused > 100


def test_an_image_of_noise_after_the_superblock(tmp_path: Path) -> None:
    whole = sample(tmp_path).image_file.read_bytes()
    generator = random.Random(21)
    opened = 0
    for _ in range(20):
        data = bytearray(whole)
        start = generator.randrange(1152, len(data) - 4096)
        data[start : start + 4096] = generator.randbytes(4096)
        try:
            image = ErofsImage(bytes(data), "sample")
        except InputError:
            continue
        opened += 1
        read_everything(image)
    assert opened > 10


def test_a_directory_that_contains_itself_ends_nothing(made: Sample) -> None:
    """`readdir` is bounded by the image even where directories lead in circles."""
    data = bytearray(made.image_file.read_bytes())
    image = ErofsImage(bytes(data))
    deep = image.lookup_path(b"/deep/d")
    assert deep is not None
    info = image.inode(deep)
    at = info.xattr_offset + layout.xattr_area_size(info.xattr_icount)
    # Entry "d" of /deep/d: the third after "." and "..".
    struct.pack_into("<Q", data, at + 2 * layout.DIRENT_SIZE, deep)
    circle = ErofsImage(bytes(data))
    assert circle.lookup_path(b"/deep/d/d/d/d/d") == deep
