"""Trees that are refused, damaged objects, and attacks from beside: nothing is followed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest

from cfsrepo.errors import InputError, LimitError, NotFoundError, RepositoryError, SystemFailure
from cfsrepo.formats import fsverity, metarecord
from cfsrepo.formats.tree import directory
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux
from cfsrepo.worktree import treewriter
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.recordedit import check_records
from cfsrepo.worktree.treewriter import TreeWriter, open_below
from tests.worktree.worktree_helpers import DATA, checked_out, image_of, regular, sample


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


@pytest.fixture
def tree(repo: Repository, tmp_path: object) -> str:
    image_of(repo, sample(repo), "image")
    return checked_out(repo, "image", f"{tmp_path}/tree")


# -- what is refused ------------------------------------------------------------------------------

BAD_RECORDS = {
    "none": ("plain", b"nonsense", "no record"),
    "of the future": ("plain", b"2 100644 0 0 0 0.0", "version 2"),
    "not canonical": ("plain", b"1 100644 0 00 0 0.0", "canonical"),
    "directory on a file": ("plain", b"1 40755 0 0 0 0.0", "says that this is a directory"),
    "file on a directory": ("dir", b"1 100644 0 0 0 0.0", "but it is a directory"),
    "device with content": ("plain", b"1 20644 0 0 259 0.0", "not empty"),
    "symlink without target": ("empty", b"1 120777 0 0 0 0.0", "target|no link"),
    "root": (".", b"1 100644 0 0 0 0.0", "but it is a directory"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records(case: str, repo: Repository, tree: str) -> None:
    name, record, message = BAD_RECORDS[case]
    os.setxattr(f"{tree}/{name}", metarecord.NAME, record)
    with pytest.raises(InputError, match=message) as caught:
        commit(repo, tree, "edited")
    assert tree in str(caught.value)
    assert "edited" not in repo.image_refs()
    assert list(check_records(tree)) != []


def test_a_target_that_is_none(repo: Repository, tree: str) -> None:
    for content, message in ((b"x" * 4096, "4096 bytes"), (b"a\0b", "NUL")):
        with open(f"{tree}/owned-link", "wb") as file:
            file.write(content)
        with pytest.raises(InputError, match=message):
            commit(repo, tree)


def test_where_there_is_something_already(repo: Repository, tree: str) -> None:
    with pytest.raises(InputError, match="not empty"):
        checked_out(repo, "image", tree)
    with pytest.raises(FileNotFoundError):
        checked_out(repo, "image", f"{tree}/no/such/parent")
    with pytest.raises(NotADirectoryError):
        checked_out(repo, "image", f"{tree}/plain")


def test_damaged_objects_are_noticed(repo: Repository, tmp_path: object) -> None:
    image_of(repo, sample(repo), "image")
    path = f"{repo.path}/objects/{object_path(fsverity.digest(DATA))}"
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"X")
    with pytest.raises(RepositoryError, match="does not have this digest"):
        checked_out(repo, "image", f"{tmp_path}/tree")
    checked_out(repo, "image", f"{tmp_path}/unchecked", verify=False)
    os.truncate(path, 5)
    with pytest.raises(RepositoryError, match="does not have this digest"):
        checked_out(repo, "image", f"{tmp_path}/tree2", verify=False)
    os.unlink(path)
    with pytest.raises(NotFoundError, match="missing"):
        checked_out(repo, "image", f"{tmp_path}/tree3")


@pytest.mark.parametrize("size", [9_000, 18_000])
def test_a_record_that_does_not_fit(size: int, repo: Repository, tmp_path: object) -> None:
    """The file system's limit (where it is below the kernel's), and the kernel's."""
    with open(f"{tmp_path}/probe", "wb") as probe:
        try:
            os.setxattr(probe.fileno(), metarecord.NAME, bytes(40_000))
            limit = 65536
        except OSError:
            limit = 40_000
    if size == 9_000 and limit == 65536:
        pytest.skip("this file system takes all that the kernel does")
    root = directory()
    assert root.entries is not None
    root.entries[b"f"] = regular(repo, b"x")
    root.entries[b"f"].xattrs = {b"user.big": bytes(size)}
    image_of(repo, root, "image")
    with pytest.raises(LimitError, match=r"tree/f: user\.cfs\.meta") as caught:
        checked_out(repo, "image", f"{tmp_path}/tree")
    assert "\n" not in str(caught.value)


def test_kernels_without_openat2(
    repo: Repository, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **keywords: object) -> int:
        raise OSError(38, "Function not implemented")

    image_of(repo, sample(repo), "image")
    monkeypatch.setattr(linux, "openat2", missing)
    with pytest.raises(SystemFailure, match="openat2"):
        checked_out(repo, "image", f"{tmp_path}/tree")


# -- attacks from beside --------------------------------------------------------------------------


def test_exchanged_directories_lead_nowhere(
    repo: Repository, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory is replaced by a symlink to elsewhere, after it was made and before its files
    are: they are nowhere then."""
    image_of(repo, sample(repo), "image")
    outside = f"{tmp_path}/outside"
    os.mkdir(outside)
    path = f"{tmp_path}/tree"
    original = TreeWriter._write_files

    def exchange(self: TreeWriter, batch: list[treewriter._Files]) -> None:
        os.rename(f"{path}/dir", f"{path}/was-dir")
        os.symlink(outside, f"{path}/dir")
        original(self, batch)

    monkeypatch.setattr(TreeWriter, "_write_files", exchange)
    with pytest.raises(InputError, match="exchanged"):
        checked_out(repo, "image", path)
    assert os.listdir(outside) == []


def test_files_that_appear_are_not_replaced(
    repo: Repository, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(repo, sample(repo), "image")
    outside = f"{tmp_path}/outside"
    with open(outside, "w") as file:
        file.write("mine")
    path = f"{tmp_path}/tree"
    original = TreeWriter._write_files

    def plant(self: TreeWriter, batch: list[treewriter._Files]) -> None:
        os.symlink(outside, f"{path}/plain")
        original(self, batch)

    monkeypatch.setattr(TreeWriter, "_write_files", plant)
    with pytest.raises(FileExistsError):
        checked_out(repo, "image", path)
    with open(outside) as file:
        assert file.read() == "mine"


def test_open_below(tmp_path: object) -> None:
    os.makedirs(f"{tmp_path}/root/a/b")
    os.symlink("a", f"{tmp_path}/root/inside")
    os.symlink("/", f"{tmp_path}/root/outside")
    os.symlink("/proc/self/root", f"{tmp_path}/root/magic")
    root = os.open(f"{tmp_path}/root", os.O_RDONLY)
    try:
        os.close(open_below(root, b"a/b", os.O_RDONLY))
        for path in (b"inside", b"inside/b", b"outside", b"outside/etc", b"magic/etc", b"../x"):
            with pytest.raises(InputError, match="exchanged"):
                open_below(root, path, os.O_RDONLY)
    finally:
        os.close(root)


def test_a_race_for_directories_leads_nowhere(repo: Repository, tmp_path: object) -> None:
    """Another process exchanges a directory and a symlink to elsewhere as fast as it can."""
    root = directory()
    assert root.entries is not None
    for number in range(40):
        below = root.entries[b"%02d" % number] = directory()
        assert below.entries is not None
        below.entries.update({b"%d" % file: regular(repo, b"x" * file) for file in range(20)})
    root.nlink = 42
    image_of(repo, root, "image")
    outside, path = f"{tmp_path}/outside", f"{tmp_path}/tree"
    os.mkdir(outside)
    os.symlink(outside, f"{tmp_path}/link")
    attacker = os.fork()
    if attacker == 0:
        try:
            number = 0
            while True:
                number = (number + 1) % 40
                with contextlib.suppress(OSError):
                    linux.renameat2(
                        -100, f"{tmp_path}/link", -100, f"{path}/{number:02d}", 2
                    )  # RENAME_EXCHANGE
        finally:
            os._exit(0)
    try:
        for _ in range(5):
            with contextlib.suppress(InputError, OSError):
                checked_out(repo, "image", path)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.kill(attacker, 9)
        os.waitpid(attacker, 0)
    assert os.listdir(outside) == []
