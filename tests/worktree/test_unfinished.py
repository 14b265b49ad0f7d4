"""A checkout that was interrupted: recognised wherever it is used, and replaced when asked for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfsrepo.errors import InputError
from cfsrepo.formats.tree import directory
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.checkout import checkout
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.status import status
from cfsrepo.worktree.treewriter import TreeWriter
from cfstools.cli import main
from tests.worktree.worktree_helpers import image_of, regular, sample


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        image_of(repository, sample(repository), "image")
        yield repository


@pytest.fixture
def tree(repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tree whose checkout was interrupted when its files were there."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TreeWriter, "_link", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkout(repo, "image", f"{tmp_path}/tree")
    return f"{tmp_path}/tree"


USES: list[Callable[[Repository, str], object]] = [
    lambda repo, tree: commit(repo, tree, "edited"),
    lambda repo, tree: status(repo, tree),
    lambda repo, tree: checkout(repo, "image", tree),
]


@pytest.mark.parametrize("use", USES)
def test_it_is_recognised(repo: Repository, tree: str, use: Callable[..., object]) -> None:
    with pytest.raises(InputError, match=r"an unfinished checkout of [0-9a-f]{64}") as caught:
        use(repo, tree)
    assert caught.value.hint is not None
    assert "cfs checkout --force" in caught.value.hint


def test_by_commands(repo: Repository, tree: str, capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["diff", "image", f"{tree}/"], ["mkcomposefs", tree, f"{tree}.img"]):
        assert main(["--repo", repo.path, *command]) not in (0, 70)
        assert "an unfinished checkout of" in capfd.readouterr().err


def test_it_is_replaced(repo: Repository, tree: str) -> None:
    checkout(repo, "image", tree, force=True)
    assert status(repo, tree).differences == ()


def test_a_finished_tree_is_replaced_when_asked_for(repo: Repository, tmp_path: Path) -> None:
    tree = f"{tmp_path}/finished"
    checkout(repo, "image", tree)
    Path(tree, "plain").write_bytes(b"edited")
    os.makedirs(f"{tree}/new/deep")
    os.symlink("/etc", f"{tree}/new/link")
    with pytest.raises(InputError, match="not empty") as caught:
        checkout(repo, "image", tree)
    assert caught.value.hint is not None
    assert "--force" in caught.value.hint
    checkout(repo, "image", tree, force=True)
    assert status(repo, tree).differences == ()


def test_deeper_than_a_path_can_say(repo: Repository, tmp_path: Path) -> None:
    root = inode = directory()
    for _ in range(40):
        assert inode.entries is not None
        inode.entries[b"d" * 200] = inode = directory()
    assert inode.entries is not None
    inode.entries[b"file"] = regular(repo, b"deep")
    image_of(repo, root, "deep")
    for force in (False, True):
        checkout(repo, "deep", f"{tmp_path}/deep", force=force)
    checkout(repo, "image", f"{tmp_path}/deep", force=True)
    assert status(repo, f"{tmp_path}/deep", "image").differences == ()


def test_what_is_no_tree_is_not_replaced(repo: Repository, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    with pytest.raises(InputError, match="neither empty nor a bare-user tree"):
        checkout(repo, "image", str(mine), force=True)
    assert (mine / "file").read_text() == "mine"
    with pytest.raises(InputError, match="not empty"):
        checkout(repo, "image", str(mine))


@pytest.mark.root
@pytest.mark.usefixtures("as_root")
def test_what_is_mounted_in_a_tree_is_not_removed(repo: Repository, tmp_path: Path) -> None:
    tree, home = f"{tmp_path}/tree", tmp_path / "home"
    checkout(repo, "image", tree)
    home.mkdir()
    (home / "file").write_text("mine")
    done = subprocess.run(["mount", "--bind", home, f"{tree}/dir"], check=False)
    if done.returncode:
        pytest.skip("needs a place where root may mount")
    try:
        with pytest.raises(InputError, match="something is mounted here"):
            checkout(repo, "image", tree, force=True)
        assert (home / "file").read_text() == "mine"
    finally:
        subprocess.run(["umount", f"{tree}/dir"], check=True)
    assert status(repo, tree).differences == ()  # not even marked as unfinished
    checkout(repo, "image", tree, force=True)
    assert status(repo, tree).differences == ()


def test_nothing_outside_is_removed(repo: Repository, tree: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    os.symlink(f"{tmp_path}/outside", f"{tree}/way-out")
    checkout(repo, "image", tree, force=True)
    assert (tmp_path / "outside" / "file").read_text() == "mine"
