"""Files that become objects by hard links: only where nothing can change them any more."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.errors import RepositoryError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.system import leases, linux
from tests.fuse.played_kernel import PlayedKernel

DATA = bytes(range(256)) * 100
DIGEST = fsverity.digest(DATA)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.OFF)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    path.chmod(0o755)
    return path


def adopt(store: ObjectStore, path: Path, names: int = 1) -> bytes | None:
    with linux.opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        return store.adopt(fd, names)


def stored(store: ObjectStore) -> Path:
    return Path(store.path, object_path(DIGEST))


def assert_not_adopted(store: ObjectStore, path: Path, names: int = 1) -> None:
    """The file and the store are as before, and nothing waits for a lease."""
    before = os.stat(path)
    assert adopt(store, path, names) is None
    after = os.stat(path)
    assert (after.st_mode, after.st_nlink) == (before.st_mode, before.st_nlink)
    assert [found for found in Path(store.path).rglob("*") if found.is_file()] == []
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.parametrize("size", [0, 1, 4096, 25_600, 3_000_000])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_file_is_the_object(tmp_path: Path, size: int, algorithm: Algorithm) -> None:
    store = ObjectStore(str(tmp_path / "objects"), algorithm, VerityPolicy.OFF)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    path.chmod(0o4755)
    os.utime(path, ns=(5, 7))
    os.setxattr(path, "user.cfs.meta", b"record")
    with linux.opened(path, os.O_RDONLY) as fd:
        digest = store.adopt(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    assert digest == fsverity.digest(path.read_bytes(), algorithm)
    found = Path(store.path, object_path(digest))
    assert found.samefile(path)
    assert os.listdir(found.parent) == [found.name]
    assert os.listdir(store.path) == [found.parent.name]
    status = found.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o444, 7)
    assert os.getxattr(found, "user.cfs.meta") == b"record"
    assert store.read(digest) == path.read_bytes()


def test_what_exists_stays_as_it_is(store: ObjectStore, file: Path) -> None:
    store.put(DATA)
    before = stored(store).stat()
    own = file.stat()
    assert adopt(store, file) == DIGEST
    assert stored(store).stat() == before
    after = file.stat()
    assert (after.st_mode, after.st_nlink, after.st_ctime_ns) == (
        own.st_mode,
        1,
        own.st_ctime_ns,
    )


def test_twice(store: ObjectStore, file: Path) -> None:
    assert adopt(store, file) == DIGEST
    before = file.stat()
    assert adopt(store, file) == DIGEST
    assert file.stat().st_ctime_ns == before.st_ctime_ns
    assert before.st_nlink == 2


def test_an_object_of_wrong_size_is_replaced(store: ObjectStore, file: Path) -> None:
    store.put(DATA)
    os.truncate(stored(store), 5)
    assert adopt(store, file) == DIGEST
    assert stored(store).samefile(file)


# -- fs-verity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [VerityPolicy.REQUIRE, VerityPolicy.TRY])
@pytest.mark.parametrize("mode", [0o755, 0o400])
def test_fs_verity_is_enabled(
    tmp_path: Path, file: Path, policy: VerityPolicy, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PlayedKernel(monkeypatch)
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, policy)
    file.chmod(mode)
    os.utime(file, ns=(5, 7))
    assert adopt(store, file) == DIGEST
    assert file.stat().st_mtime_ns == 7
    assert kernel.protected == {file.stat().st_ino: DIGEST}
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_where_it_is_required_and_missing(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.REQUIRE)
    assert_not_adopted(store, file)


def test_a_kernel_that_measures_otherwise(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PlayedKernel(monkeypatch)
    monkeypatch.setattr(kernelverity, "measure", lambda fd, algorithm: bytes(32))
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256)
    assert_not_adopted(store, file)


def test_a_kernel_that_finds_it_busy(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PlayedKernel(monkeypatch)
    kernel.busy = 1000
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256)
    assert_not_adopted(store, file)


def test_it_can_be_protected_later(
    store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel asks for the right to write, which an adopted file's owner gave away."""
    adopt(store, file)
    before = file.stat().st_mtime_ns
    kernel = PlayedKernel(monkeypatch)
    with linux.opened(stored(store), os.O_RDONLY) as fd:
        assert kernelverity.enable_when_idle(fd, store.algorithm)
    assert kernel.protected == {file.stat().st_ino: DIGEST}
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.stat().st_mtime_ns == before  # else the tree's file would count as edited


# -- what is not adopted --------------------------------------------------------------------------


def test_a_file_that_is_open_for_writing(store: ObjectStore, file: Path) -> None:
    with linux.opened(file, os.O_RDWR) as fd:
        assert_not_adopted(store, file)
        mapping = mmap.mmap(fd, len(DATA))
    with mapping:
        assert_not_adopted(store, file)
    assert adopt(store, file) == DIGEST


def come_to_write(path: Path) -> None:
    """What somebody does who opens the file for writing, but for the waiting."""
    with pytest.raises(BlockingIOError):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def give_a_name(path: Path) -> None:
    os.link(path, f"{path}.other")
    os.unlink(f"{path}.other")


@pytest.mark.parametrize("change", [come_to_write, touch, give_a_name])
def test_changed_while_it_is_hashed(
    change: Callable[[Path], None],
    store: ObjectStore,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = fsverity.digest

    def digest(data: bytes, algorithm: Algorithm) -> bytes:
        change(file)
        return real(data, algorithm)

    monkeypatch.setattr(fsverity, "digest", digest)
    assert_not_adopted(store, file)


@pytest.mark.parametrize("change", [come_to_write, touch])
def test_changed_while_it_is_linked(
    change: Callable[[Path], None],
    store: ObjectStore,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The link is taken back."""
    real = linux.link_fd

    def link(fd: int, dirfd: int, path: str) -> None:
        real(fd, dirfd, path)
        change(file)

    monkeypatch.setattr(linux, "link_fd", link)
    assert_not_adopted(store, file)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT])
def test_links_that_are_refused(
    code: int, store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, dirfd: int, path: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(linux, "link_fd", refuse)
    assert_not_adopted(store, file)
    monkeypatch.undo()
    assert adopt(store, file) == DIGEST  # it was about that file


def test_another_file_system_is_not_tried_again(
    store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(fd: int, dirfd: int, path: str) -> None:
        tried.append(path)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(linux, "link_fd", refuse)
    assert_not_adopted(store, file)
    assert_not_adopted(store, file)
    assert len(tried) == 1


def test_a_full_disk_is_an_error_and_leaves_nothing(
    store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        adopt(store, file)
    assert [found for found in Path(store.path).rglob("*") if found.is_file()] == []
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_nlink) == (0o755, 1)


def test_a_real_other_file_system(store: ObjectStore, tmp_path: Path) -> None:
    path = Path("/dev/shm", f"cfsfuse-test-{os.getpid()}")
    if not path.parent.is_dir() or path.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a file system of its own at /dev/shm")
    try:
        path.write_bytes(DATA)
        assert_not_adopted(store, path)
    finally:
        path.unlink()


def test_other_names_of_the_file(store: ObjectStore, file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "other")
    assert_not_adopted(store, file)
    assert_not_adopted(store, file, 3)
    assert adopt(store, file, 2) == DIGEST
    assert file.stat().st_nlink == 3


def test_a_file_of_somebody_else(
    store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert_not_adopted(store, file)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES, errno.ENOLCK])
def test_a_file_system_without_leases(
    code: int, store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(leases, "take_read_lease", refuse)
    assert_not_adopted(store, file)


def test_what_is_no_regular_file(store: ObjectStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert adopt(store, tmp_path / "fifo") is None
    assert adopt(store, tmp_path) is None


def test_a_read_only_store_refuses(file: Path, tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, writable=False)
    with pytest.raises(RepositoryError, match="reading only"):
        adopt(store, file)
