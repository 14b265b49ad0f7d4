"""The object store: content in, digest out, whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, RepositoryError, VerityError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import ObjectStore, digest_from_path, object_path
from cfsrepo.system import linux
from tests.fuse.played_kernel import PlayedKernel

SIZES = [0, 1, 4096, 4097, 3_000_000]


@pytest.fixture(params=["O_TMPFILE", "named"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A store on a file system with O_TMPFILE, and one that must do without."""
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256)
    store._tmpfile = request.param == "O_TMPFILE"
    return store


def files(store: ObjectStore) -> list[str]:
    """Paths of all files below the store's directory."""
    return sorted(
        os.path.relpath(os.path.join(directory, name), store.path)
        for directory, _, names in os.walk(store.path)
        for name in names
    )


def put_in_pieces(store: ObjectStore, data: bytes) -> bytes:
    with store.writer() as writer:
        for at in range(0, len(data), 100_000):
            writer.write(data[at : at + 100_000])
        assert writer.size == len(data)
        return writer.commit()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_put_and_read(tmp_path: Path, size: int, algorithm: Algorithm) -> None:
    store = ObjectStore(str(tmp_path / "objects"), algorithm)
    data = os.urandom(size)
    digest = store.put(data)
    assert digest == fsverity.digest(data, algorithm)
    assert store.read(digest) == data
    assert store.has(digest)
    assert store.size(digest) == size
    assert files(store) == [object_path(digest)]
    fd = store.open(digest)
    try:
        assert fsverity.digest_fd(fd, algorithm) == digest
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", SIZES)
def test_writer_stores_the_same(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    digest = put_in_pieces(store, data)
    assert digest == fsverity.digest(data)
    assert store.read(digest) == data
    assert files(store) == [object_path(digest)]


@pytest.mark.parametrize("put", [ObjectStore.put, put_in_pieces])
def test_the_same_content_is_written_once(store: ObjectStore, put: object) -> None:
    assert callable(put)
    digest = put(store, b"content")
    path = os.path.join(store.path, object_path(digest))
    before = os.stat(path)
    assert put(store, b"content") == digest
    after = os.stat(path)
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert files(store) == [object_path(digest)]


@pytest.mark.parametrize("put", [ObjectStore.put, put_in_pieces])
def test_an_object_of_wrong_size_is_replaced(store: ObjectStore, put: object) -> None:
    """What a power failure leaves: the name, without the data."""
    assert callable(put)
    digest = put(store, b"content")
    path = os.path.join(store.path, object_path(digest))
    os.truncate(path, 0)
    put(store, b"content")
    assert store.read(digest) == b"content"
    assert files(store) == [object_path(digest)]


def test_damage_is_noticed_when_read(store: ObjectStore) -> None:
    digest = store.put(b"content")
    Path(store.path, object_path(digest)).write_bytes(b"CONTENT")
    with pytest.raises(RepositoryError, match="content does not have this digest") as caught:
        store.read(digest)
    assert object_path(digest) in str(caught.value)
    assert store.read(digest, verify=False) == b"CONTENT"


def test_missing_objects(store: ObjectStore) -> None:
    digest = bytes(32)
    assert not store.has(digest)
    assert store.size(digest) is None
    for read in (store.open, store.read):
        with pytest.raises(NotFoundError, match="object is missing"):
            read(digest)


def test_an_abandoned_writer_leaves_nothing(store: ObjectStore) -> None:
    with store.writer() as writer:
        writer.write(b"content")
    assert files(store) == []
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        writer.write(b"x" * (1 // writer.size))
    assert files(store) == []


def test_no_descriptor_leaks(store: ObjectStore) -> None:
    digest = store.put(b"first")
    before = set(os.listdir("/proc/self/fd"))
    store.put(b"first")
    store.put(b"second")
    put_in_pieces(store, b"third")
    store.read(digest)
    with store.writer() as writer:
        writer.write(b"abandoned")
    assert set(os.listdir("/proc/self/fd")) == before


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    program = (
        "import os, sys; os.umask(0o077)\n"
        "from cfsrepo.store.objects import *\n"
        "store = ObjectStore(sys.argv[1], Algorithm.SHA256)\n"
        "store.put(b'one')\n"
        "with store.writer() as writer: writer.write(b'two'); writer.commit()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "objects")], check=True)
    modes = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode))
        for path in (tmp_path / "objects").rglob("*")
    }
    assert modes == {(True, 0o755), (False, 0o644)}


def test_a_full_disk_names_the_store_and_leaves_nothing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"first")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        store.put(b"second")
    assert caught.value.filename == store.path
    with pytest.raises(OSError, match="No space left"), store.writer() as writer:
        writer.write(b"third")
    monkeypatch.undo()
    assert len(files(store)) == 1


def test_short_writes_are_continued(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[:1000]))
    data = os.urandom(4500)
    digest = store.put(data)
    monkeypatch.undo()
    assert store.read(digest) == data


def test_a_read_only_store_refuses_to_write(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path), Algorithm.SHA256, writable=False)
    with pytest.raises(RepositoryError, match="reading only"):
        store.put(b"x")
    with pytest.raises(RepositoryError, match="reading only"):
        store.writer()
    assert os.listdir(tmp_path) == []


def test_a_store_without_its_directory_is_empty(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "absent"), Algorithm.SHA256, writable=False)
    assert store.prefixes() == []
    assert not store.has(bytes(32))
    with pytest.raises(NotFoundError):
        store.open(bytes(32))


def test_prefixes(store: ObjectStore) -> None:
    digest = store.put(b"x")
    os.mkdir(os.path.join(store.path, "not-a-prefix"))
    assert store.prefixes() == [digest.hex()[:2]]


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("ab/" + "c" * 62, True),
        ("AB/" + "c" * 62, False),
        ("ab" + "c" * 62, False),
        ("a/b" + "c" * 62, False),
        ("ab/" + "c" * 61, False),
        ("ab/" + "c" * 126, False),
        ("ab/" + "\u0661" * 62, False),
        ("ab/c/" + "c" * 60, False),
    ],
)
def test_digest_from_path(path: str, good: bool) -> None:
    digest = digest_from_path(path, Algorithm.SHA256)
    assert (digest is not None) == good
    if digest is not None:
        assert object_path(digest) == path


# --- fs-verity, with a kernel that is played -----------------------------------------------------


@pytest.mark.parametrize("policy", [VerityPolicy.REQUIRE, VerityPolicy.TRY])
@pytest.mark.parametrize("put", [ObjectStore.put, put_in_pieces])
def test_every_object_is_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: VerityPolicy, put: object
) -> None:
    assert callable(put)
    kernel = PlayedKernel(monkeypatch)
    kernel.busy = 3
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, policy)
    digest = put(store, b"content")
    inode = os.stat(os.path.join(store.path, object_path(digest))).st_ino
    assert kernel.protected == {inode: digest}
    # An object that lost its protection is replaced where it is required.
    kernel.protected.clear()
    put(store, b"content")
    assert bool(kernel.protected) == (policy is VerityPolicy.REQUIRE)
    assert store.read(digest) == b"content"
    assert files(store) == [object_path(digest)]


def test_off_does_not_ask_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = PlayedKernel(monkeypatch)
    ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.OFF).put(b"content")
    assert not kernel.protected


def test_try_asks_once_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def enable(fd: int, algorithm: Algorithm) -> bool:
        asked.append(fd)
        return False

    monkeypatch.setattr(kernelverity, "enable", enable)
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.TRY)
    for number in range(3):
        store.put(b"content %d" % number)
    assert len(asked) == 1
    assert len(files(store)) == 3


def test_require_fails_without_and_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.REQUIRE)
    with pytest.raises(VerityError, match="no fs-verity here") as caught:
        store.put(b"content")
    assert caught.value.hint
    assert files(store) == []


def test_a_kernel_that_measures_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PlayedKernel(monkeypatch)
    monkeypatch.setattr(kernelverity, "measure", lambda fd, algorithm: bytes(32))
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.TRY)
    with pytest.raises(VerityError, match="measures otherwise"):
        store.put(b"content")
    assert files(store) == []


def test_a_file_that_stays_busy_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PlayedKernel(monkeypatch)
    kernel.busy = 1000
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.REQUIRE)
    with pytest.raises(OSError, match="busy"):
        store.put(b"content")
    assert files(store) == []


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("ext4 /dev/sdx1 rw", "tune2fs -O verity /dev/sdx1"),
        ("tmpfs tmpfs rw", "--verity=try"),
        ("btrfs /dev/sdx1 rw", "CONFIG_FS_VERITY"),
        ("f2fs /dev/sdx1 rw", "mkfs.f2fs -O verity"),
    ],
)
def test_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, line: str, hint: str) -> None:
    from cfsrepo.system import mounttable

    table = f"1 0 8:1 / / rw - {line}\n".encode()
    monkeypatch.setattr(mounttable, "read", lambda: mounttable.parse(table))
    error = kernelverity.unsupported("/repository")
    assert error.hint is not None
    assert hint in error.hint


def test_a_name_appears_with_the_complete_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256)
    seen = []
    real = linux.link_fd

    def link(fd: int, dirfd: int, path: str) -> None:
        seen.append((os.fstat(fd).st_size, os.fstat(fd).st_nlink))
        real(fd, dirfd, path)

    monkeypatch.setattr(linux, "link_fd", link)
    store.put(b"x" * 10_000)
    assert seen == [(10_000, 0)]
