"""The thin wrappers: right arguments in, right errors out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cfsrepo.system import linux


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("dir")
    return tmp_path


def test_openat2_opens_below(tree: Path) -> None:
    with linux.opened(str(tree), os.O_RDONLY) as root:
        fd = linux.openat2(root, b"dir/file", os.O_RDONLY)
        try:
            assert os.read(fd, 100) == b"content"
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    ("path", "resolve", "code"),
    [
        ("../x", linux.RESOLVE_BENEATH, errno.EXDEV),
        ("/etc/passwd", linux.RESOLVE_BENEATH, errno.EXDEV),
        ("link/file", linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("absent", linux.RESOLVE_BENEATH, errno.ENOENT),
    ],
)
def test_openat2_refuses(tree: Path, path: str, resolve: int, code: int) -> None:
    with (
        linux.opened(str(tree), os.O_RDONLY) as root,
        pytest.raises(OSError, match=os.strerror(code)) as caught,
    ):
        linux.openat2(root, path, os.O_RDONLY, resolve=resolve)
    assert caught.value.errno == code
    assert caught.value.filename == path


def test_renameat2(tree: Path) -> None:
    (tree / "a").write_bytes(b"a")
    (tree / "b").write_bytes(b"b")
    with linux.opened(str(tree), os.O_RDONLY) as root:
        with pytest.raises(FileExistsError):
            linux.renameat2(root, "a", root, "b", linux.RENAME_NOREPLACE)
        linux.renameat2(root, "a", root, "b", linux.RENAME_EXCHANGE)
        assert (tree / "a").read_bytes() == b"b"
        linux.renameat2(root, "a", root, "c", linux.RENAME_NOREPLACE)
    assert (tree / "c").read_bytes() == b"b"


def test_link_fd_names_a_nameless_file(tree: Path) -> None:
    with linux.opened(str(tree), os.O_RDONLY) as root:
        with linux.opened(str(tree), os.O_TMPFILE | os.O_WRONLY) as fd:
            os.write(fd, b"new")
            linux.link_fd(fd, root, "named")
            with pytest.raises(FileExistsError):
                linux.link_fd(fd, root, "named")
            reader = linux.reopen(fd, os.O_RDONLY)
            try:
                assert os.read(reader, 10) == b"new"
            finally:
                os.close(reader)
    assert (tree / "named").read_bytes() == b"new"


def test_locks_exclude(tree: Path) -> None:
    with (
        linux.opened(str(tree), os.O_RDONLY) as one,
        linux.opened(str(tree), os.O_RDONLY) as two,
    ):
        linux.lock_shared(one)
        linux.lock_shared(two)
        assert not linux.lock_exclusive(two, wait=False)
        linux.unlock(one)
        assert linux.lock_exclusive(two, wait=False)


def test_syncfs(tree: Path) -> None:
    with linux.opened(str(tree), os.O_RDONLY) as fd:
        linux.syncfs(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        linux.syncfs(fd)


def test_clone_file_shares_or_says_no(tree: Path) -> None:
    with (
        linux.opened(str(tree / "dir" / "file"), os.O_RDONLY) as src,
        linux.opened(str(tree), os.O_TMPFILE | os.O_RDWR) as dst,
    ):
        cloned = linux.clone_file(src, dst)
        assert os.pread(dst, 100, 0) == (b"content" if cloned else b"")


def test_verity_structs_have_the_size_in_their_request() -> None:
    # _IOC: bits 16..29 of a request are the size of its argument
    assert linux._VERITY_ENABLE.size == (linux.FS_IOC_ENABLE_VERITY >> 16) & 0x3FFF
    assert linux._VERITY_DIGEST.size == (linux.FS_IOC_MEASURE_VERITY >> 16) & 0x3FFF
