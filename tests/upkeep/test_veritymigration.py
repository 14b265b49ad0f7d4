"""Migration to fs-verity, with a kernel that is played; real ones are the VM's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cfsrepo.errors import VerityError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import veritymigration
from tests.store.repository_helpers import add_files

A, B = b"a" * 5000, b"b" * 6000


class PlayedKernel:
    """Enables and measures as a kernel with fs-verity does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.protected: dict[int, bytes] = {}
        self.fail_after: int | None = None
        monkeypatch.setattr(kernelverity, "enable", self.enable)
        monkeypatch.setattr(kernelverity, "measure", self.measure)

    def enable(self, fd: int, algorithm: Algorithm) -> bool:
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise OSError(errno.EIO, "Input/output error")
            self.fail_after -= 1
        if os.fstat(fd).st_nlink:  # not the probe
            self.protected[os.fstat(fd).st_ino] = fsverity.digest_fd(fd, algorithm)
        return True

    def measure(self, fd: int, algorithm: Algorithm) -> bytes | None:
        return self.protected.get(os.fstat(fd).st_ino)

    def protects(self, path: Path) -> bool:
        return path.stat().st_ino in self.protected


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    repo = Repository.init(str(tmp_path / "repo"), verity=VerityPolicy.OFF)
    add_files(repo, "one", {"a": A, "b": B})
    return repo


@pytest.fixture
def kernel(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> PlayedKernel:
    return PlayedKernel(monkeypatch)


def object_files(repo: Repository) -> list[Path]:
    return [path for path in Path(repo.objects.path).rglob("*") if path.is_file()]


def test_without_fs_verity_the_error_says_what_to_do(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    with pytest.raises(VerityError, match="no fs-verity here") as caught:
        veritymigration.enable(repo)
    assert caught.value.hint
    found = veritymigration.status(repo, workers=1)
    assert not found.supported
    assert (found.protected, found.unprotected) == (0, len(object_files(repo)))


def test_everything_gets_protected_and_the_policy_raised(
    repo: Repository, kernel: PlayedKernel
) -> None:
    before = veritymigration.status(repo, workers=1)
    assert (before.policy, before.supported, before.meta) == (VerityPolicy.OFF, True, False)
    result = veritymigration.enable(repo, workers=1)
    assert result.protected == len(object_files(repo))
    assert all(kernel.protects(path) for path in object_files(repo))
    assert kernel.protects(Path(repo.path, "meta.json"))
    assert Path(repo.path, "cfsfuse", "verity").read_text() == "require\n"
    with Repository.open(repo.path) as again:
        assert again.policy is VerityPolicy.REQUIRE
        found = veritymigration.status(again, workers=1)
        assert (found.meta, found.unprotected) == (True, 0)
        assert found.damaged == []
    assert veritymigration.enable(repo, workers=1).protected == len(object_files(repo))


def test_a_copy_that_lost_it_gets_it_back(repo: Repository, kernel: PlayedKernel) -> None:
    veritymigration.enable(repo, workers=1)
    repo.close()
    kernel.protected.clear()
    with pytest.raises(VerityError, match="a copy"):
        Repository.open(repo.path)
    with Repository.open(repo.path, check_policy=False) as lost:
        veritymigration.enable(lost, workers=1)
    Repository.open(repo.path).close()


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_run_is_continued(
    repo: Repository, kernel: PlayedKernel, after: int
) -> None:
    kernel.fail_after = after
    with pytest.raises(OSError, match="Input/output"):
        veritymigration.enable(repo, workers=1)
    assert not kernel.protects(Path(repo.path, "meta.json"))
    assert Path(repo.path, "cfsfuse", "verity").read_text() == "off\n"
    done = dict(kernel.protected)
    kernel.fail_after = None
    veritymigration.enable(repo, workers=1)
    assert done.items() <= kernel.protected.items()
    assert all(kernel.protects(path) for path in object_files(repo))


def test_damage_keeps_the_policy_from_being_raised(repo: Repository, kernel: PlayedKernel) -> None:
    digest = fsverity.digest(A)
    path = Path(repo.objects.path, object_path(digest))
    path.write_bytes(A.upper())
    with pytest.raises(VerityError, match="1 objects are damaged") as caught:
        veritymigration.enable(repo, workers=1)
    assert object_path(digest) in str(caught.value)
    assert not kernel.protects(path), "a damaged file is not made immutable"
    assert not kernel.protects(Path(repo.path, "meta.json"))
    path.write_bytes(A)
    veritymigration.enable(repo, workers=1)


def test_what_is_stored_meanwhile_is_protected_too(
    repo: Repository, kernel: PlayedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = veritymigration.linux.lock_exclusive
    late = b"late" * 1000

    def lock(fd: int, *, wait: bool = True) -> bool:
        repo.objects.put(late)  # by somebody else, just before we get the lock
        return real(fd, wait=wait)

    monkeypatch.setattr(veritymigration.linux, "lock_exclusive", lock)
    veritymigration.enable(repo, workers=1)
    path = Path(repo.objects.path, object_path(fsverity.digest(late)))
    assert kernel.protects(path)


def test_several_processes(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real calls, where there is no fs-verity: the workers' answers are put together."""
    found = veritymigration.status(repo, workers=3)
    assert found.protected + found.unprotected == len(object_files(repo))
