"""A directory on disk as a tree."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cfsrepo.errors import InputError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.tree import Inode, walk
from cfsrepo.store.objects import ObjectStore
from cfsrepo.worktree import filecontents
from cfsrepo.worktree.filemetadata import AsOnDisk, KeptXattrs
from cfsrepo.worktree.scan import Scanner, scan_directory


def entry(root: Inode, path: str) -> Inode:
    inode = root
    for name in path.encode().split(b"/"):
        assert inode.entries is not None
        inode = inode.entries[name]
    return inode


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "small").write_bytes(b"s" * 64)
    (top / "big").write_bytes(b"b" * 65)
    (top / "huge").write_bytes(os.urandom(3 << 20))
    (top / "empty").touch()
    (top / "link").symlink_to("nowhere")
    os.link(top / "big", top / "dir" / "same")
    os.mkfifo(top / "dir" / "fifo")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(top / "dir" / "socket"))
    os.utime(top / "small", ns=(0, -1_500_000_000))
    os.chmod(top / "dir", 0o2751)
    return top


def test_what_is_taken(sample: Path) -> None:
    root = scan_directory(str(sample))
    assert [path for path, _ in walk(root)] == [
        b"/", b"/big", b"/dir", b"/dir/deep", b"/dir/fifo", b"/dir/same", b"/dir/socket",
        b"/empty", b"/huge", b"/link", b"/small",
    ]  # fmt: skip
    assert entry(root, "dir").mode == stat.S_IFDIR | 0o2751
    assert entry(root, "small").content == b"s" * 64
    assert entry(root, "small").payload is None
    assert (entry(root, "small").mtime_sec, entry(root, "small").mtime_nsec) == (-2, 500_000_000)
    assert entry(root, "link").payload == b"nowhere"
    assert stat.S_ISFIFO(entry(root, "dir/fifo").mode)
    assert stat.S_ISSOCK(entry(root, "dir/socket").mode)
    assert (entry(root, "empty").content, entry(root, "empty").digest) == (None, None)
    for name in ("big", "huge"):
        digest = fsverity.digest((sample / name).read_bytes())
        assert entry(root, name).digest == digest
        assert entry(root, name).payload == b"%b/%b" % (
            digest.hex()[:2].encode(),
            digest.hex()[2:].encode(),
        )


def test_hard_links_are_one_inode(sample: Path) -> None:
    root = scan_directory(str(sample))
    assert entry(root, "big") is entry(root, "dir/same")
    assert entry(root, "big").nlink == 2
    os.link(sample / "big", sample.parent / "outside")
    assert entry(scan_directory(str(sample)), "big").nlink == 2


@pytest.mark.parametrize("threads", [1, 4])
def test_objects_are_stored(
    sample: Path, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filecontents, "_BATCH_FILES", 1)
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.OFF)
    try:
        root = scan_directory(str(sample), store=store, workers=threads)
        for name in ("big", "huge"):
            digest = entry(root, name).digest
            assert digest is not None
            assert store.read(digest) == (sample / name).read_bytes()
        assert sum(len(files) for _, _, files in os.walk(tmp_path / "objects")) == 2
    finally:
        store.close()


def test_epoch(sample: Path) -> None:
    root = scan_directory(str(sample), AsOnDisk(use_epoch=True))
    assert {(inode.mtime_sec, inode.mtime_nsec) for _, inode in walk(root)} == {(0, 0)}


def test_xattrs(sample: Path) -> None:
    try:
        os.setxattr(sample / "big", "user.a", b"1")
        os.setxattr(sample, "user.root", b"")
    except OSError:
        pytest.skip("needs a file system with user xattrs for temporary files")
    root = scan_directory(str(sample))
    assert entry(root, "big").xattrs == {b"user.a": b"1"}
    assert root.xattrs == {b"user.root": b""}
    assert entry(scan_directory(str(sample), AsOnDisk(KeptXattrs.NONE)), "big").xattrs is None


def test_devices_and_privileged_xattrs(sample: Path, as_root: None) -> None:
    try:
        os.mknod(sample / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(sample / "whiteout", stat.S_IFCHR)
    except OSError:
        pytest.skip("needs a place where root may make device nodes")
    os.setxattr(sample / "link", "trusted.t", b"v", follow_symlinks=False)
    root = scan_directory(str(sample))
    assert entry(root, "null").rdev == os.makedev(1, 3)
    assert entry(root, "whiteout").is_whiteout
    assert entry(root, "link").xattrs == {b"trusted.t": b"v"}
    assert root.entries is not None
    root = scan_directory(str(sample), AsOnDisk(KeptXattrs.USER, skip_devices=True))
    assert entry(root, "link").xattrs is None
    assert root.entries is not None
    assert not {b"null", b"whiteout"} & root.entries.keys()


def test_deeper_than_a_path_can_say(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    bottom = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(bottom, b"x" * 100)
    os.close(bottom)
    os.close(fd)
    root = scan_directory(str(tmp_path))
    *_, (path, inode) = walk(root)
    assert len(path) == 60 * 201 + 5
    assert inode.digest == fsverity.digest(b"x" * 100)


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret" * 20)
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "way").symlink_to("../outside")
    root = scan_directory(str(tmp_path / "top"))
    assert entry(root, "way").payload == b"../outside"
    assert entry(root, "way").entries is None


def test_a_file_that_changes_is_an_error(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filecontents, "_BATCH_FILES", 1)
    original = Scanner.read_tree

    def edited(self: Scanner, base: Inode | None = None) -> Inode:
        root = original(self, base)
        with (sample / "big").open("ab") as file:
            file.write(b"more")
        return root

    monkeypatch.setattr(Scanner, "read_tree", edited)
    for threads in (1, 3):
        with pytest.raises(InputError, match=r"(big|dir/same): changed while it was read"):
            scan_directory(str(sample), workers=threads)


def test_records_are_no_attributes(sample: Path) -> None:
    """A file from a bare-user tree does not take its record along into an image."""
    try:
        os.setxattr(sample / "big", "user.cfs.meta", b"1 100644 0 0 0 0.0")
        os.setxattr(sample / "big", "user.a", b"1")
    except OSError:
        pytest.skip("needs a file system with user xattrs for temporary files")
    assert entry(scan_directory(str(sample)), "big").xattrs == {b"user.a": b"1"}


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        scan_directory(str(tmp_path / "nothing"))
    (tmp_path / "file").write_bytes(b"x" * 100)
    with pytest.raises(NotADirectoryError):
        scan_directory(str(tmp_path / "file"))

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        scan_directory(str(tmp_path))
    assert caught.value.filename == str(tmp_path / "file")
