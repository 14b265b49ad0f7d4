"""`cfs status`, `cfs checkout --force`, and `cfs diff` of bare-user trees."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.store.repository import Repository
from cfstools.cli import main
from tests.worktree.worktree_helpers import image_of, sample

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cfs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on a repository with an image that is checked out to `tree`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--repo", f"{tmp_path}/repo", *arguments])
        shown = capfd.readouterr()
        return code, shown.out, shown.err

    with Repository.init(f"{tmp_path}/repo") as repo:
        image_of(repo, sample(repo), "image")
    assert run("checkout", "image", f"{tmp_path}/tree")[0] == 0
    return run


def test_untouched(cfs: Run, tmp_path: Path) -> None:
    for sides in (["image", f"{tmp_path}/tree"], [f"{tmp_path}/tree", "image"]):
        assert cfs("diff", *sides) == (0, "", "")
    assert cfs("diff", "image", f"{tmp_path}/tree", "/dir") == (0, "", "")
    code, out, _ = cfs("status", f"{tmp_path}/tree")
    assert code == 0
    assert out.startswith(f"{tmp_path}/tree: as the image ")
    assert cfs("status", "-q", f"{tmp_path}/tree") == (0, "", "")


def test_edited(cfs: Run, tmp_path: Path) -> None:
    (tmp_path / "tree" / "new").write_bytes(b"new")
    os.unlink(tmp_path / "tree" / "small")
    assert cfs("meta", "set", "--uid", "9", f"{tmp_path}/tree/suid")[0] == 0
    os.chmod(tmp_path / "tree" / "old", 0o700)
    wanted = ["A /new", "D /small", "M /suid: owner 0:0 -> 9:0"]
    code, out, _ = cfs("status", f"{tmp_path}/tree")
    assert code == 0
    assert out.splitlines()[:3] == wanted
    assert "the mode of 1 files was changed on disk" in out.splitlines()[3]
    code, out, _ = cfs("diff", "image", f"{tmp_path}/tree")
    assert code == 1
    assert out.splitlines() == ["M /: mtime", *wanted]
    code, out, _ = cfs("status", "--json", "--base", "image", f"{tmp_path}/tree")
    found = json.loads(out)
    assert [each["path"] for each in found["differences"]] == ["/new", "/small", "/suid"]
    assert (found["files_without_record"], found["files_chmodded"]) == (1, 1)
    assert len(found["image_id"]) == 64


def test_two_trees(cfs: Run, tmp_path: Path) -> None:
    assert cfs("checkout", "image", f"{tmp_path}/other")[0] == 0
    assert cfs("diff", f"{tmp_path}/tree", f"{tmp_path}/other") == (0, "", "")
    assert cfs("meta", "set", "--mode", "600", f"{tmp_path}/other/suid")[0] == 0
    code, out, _ = cfs("diff", f"{tmp_path}/tree", f"{tmp_path}/other")
    assert (code, out) == (1, "M /suid: mode 4755 -> 0600\n")


def test_force(cfs: Run, tmp_path: Path) -> None:
    (tmp_path / "tree" / "new").write_bytes(b"new")
    code, _, err = cfs("checkout", "image", f"{tmp_path}/tree")
    assert code != 0
    assert "--force" in err
    assert cfs("checkout", "--force", "image", f"{tmp_path}/tree")[0] == 0
    assert cfs("diff", "image", f"{tmp_path}/tree")[0] == 0


def test_no_tree(cfs: Run, tmp_path: Path) -> None:
    code, _, err = cfs("status", str(tmp_path))
    assert code != 0
    assert "no bare-user tree" in err
    assert cfs("status", f"{tmp_path}/absent")[0] not in (0, 70)
