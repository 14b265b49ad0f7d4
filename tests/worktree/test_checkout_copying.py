"""How contents come into a checked out tree: whole and verified, however the kernel copies."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.tree import directory
from cfsrepo.store import kernelverity
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.checkout import checkout
from cfsrepo.worktree.commit import commit
from tests.worktree.worktree_helpers import DATA, image_of, regular, sample

BIG = DATA * 200  # more than one piece
Copy = Callable[[int, int, int], int]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """A directory on another file system than the repository, as far as this machine has one."""
    here = os.stat(tmp_path).st_dev
    for place in ("/dev/shm", "/tmp", "/var/tmp", os.path.expanduser("~")):
        if os.access(place, os.W_OK) and os.stat(place).st_dev != here:
            path = tempfile.mkdtemp(dir=place)
            yield path
            shutil.rmtree(path)
            return
    pytest.skip("needs two file systems that can be written to")


def image_with_big(repo: Repository) -> str:
    root = directory()
    assert root.entries is not None
    root.entries[b"big"] = regular(repo, BIG)
    root.entries[b"object"] = regular(repo, DATA)
    return image_of(repo, root, "image")


def no_range(source: int, target: int, count: int) -> int:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def nothing(source: int, target: int, count: int) -> int:
    return 0


def once(source: int, target: int, count: int) -> int:
    """Some bytes, and then no more."""
    if os.lseek(source, 0, os.SEEK_CUR):
        return 0
    return os.write(target, os.read(source, min(count, 1000)))


@pytest.mark.parametrize("verify", [True, False])
def test_across_file_systems(repo: Repository, elsewhere: str, verify: bool) -> None:
    made = image_of(repo, sample(repo), "image")
    checkout(repo, "image", f"{elsewhere}/tree", verify=verify)
    assert commit(repo, f"{elsewhere}/tree").image_id == made


@pytest.mark.parametrize("copy", [no_range, nothing, once])
@pytest.mark.parametrize("measured", [True, False])
def test_what_the_kernel_does_not_copy_is_read(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Copy, measured: bool
) -> None:
    """`measured`: the kernel has verified the object; else nobody shall."""
    made = image_with_big(repo)
    calls = []

    def copying(source: int, target: int, count: int) -> int:
        calls.append(count)
        return copy(source, target, count)

    monkeypatch.setattr("cfsrepo.system.linux.clone_file", lambda source, target: False)
    monkeypatch.setattr(os, "copy_file_range", copying)
    if measured:
        digests = {len(BIG): repo.objects.put(BIG), len(DATA): repo.objects.put(DATA)}
        monkeypatch.setattr(
            kernelverity, "measure", lambda fd, algorithm: digests.get(os.fstat(fd).st_size)
        )
    checkout(repo, "image", f"{tmp_path}/tree", verify=measured)
    assert Path(tmp_path, "tree/big").read_bytes() == BIG
    assert Path(tmp_path, "tree/object").read_bytes() == DATA
    assert len(BIG) in calls
    monkeypatch.undo()
    assert commit(repo, f"{tmp_path}/tree").image_id == made


def test_an_object_that_ends_early(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size was right when it was opened; a shorter file is not left silently."""
    image_with_big(repo)

    def shrink(source: int, target: int, count: int) -> int:
        os.lseek(source, -10, os.SEEK_END)
        return 0

    monkeypatch.setattr("cfsrepo.system.linux.clone_file", lambda source, target: False)
    monkeypatch.setattr(os, "copy_file_range", shrink)
    with pytest.raises(RepositoryError, match="does not have this digest"):
        checkout(repo, "image", f"{tmp_path}/tree", verify=False)


def test_shared_blocks_are_verified(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharing blocks reads nothing, so what the kernel would verify is not verified yet."""
    image_with_big(repo)

    def share(source: int, target: int) -> bool:
        os.pwrite(target, b"x" * os.fstat(source).st_size, 0)
        return True

    digests = {len(BIG): repo.objects.put(BIG), len(DATA): repo.objects.put(DATA)}
    monkeypatch.setattr("cfsrepo.system.linux.clone_file", share)
    monkeypatch.setattr(
        kernelverity, "measure", lambda fd, algorithm: digests.get(os.fstat(fd).st_size)
    )
    with pytest.raises(RepositoryError, match="does not have this digest"):
        checkout(repo, "image", f"{tmp_path}/tree")
