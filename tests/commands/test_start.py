"""What starting `cfs` costs is what it imports: small commands leave out what they do not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.fuse.fuse_helpers import sample

# Never needed by a command that looks into a repository.
HEAVY = {
    *("argparse", "asyncio", "cfsfuse", "cfsrepo.oci", "cfsrepo.upkeep", "cfsrepo.worktree"),
    *("difflib", "inspect", "logging", "multiprocessing", "pyfuse3", "rich", "subprocess"),
    *("textwrap", "traceback", "trio", "tempfile", "zstandard"),
}


def imported(*argv: str, program: str = "cfstools") -> set[str]:
    """The modules that a command imported."""
    done = subprocess.run(
        [sys.executable, "-S", "-X", "importtime", "-m", program, *argv],
        env={
            **os.environ,
            # Without `site`, which imports what it likes, but with the packages that it finds.
            "PYTHONPATH": ":".join(
                [*(CHECKOUT + below for below in ("", "/repo", "/tools")), *sys.path]
            ),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


@pytest.fixture
def repo(tmp_path: Path) -> str:
    path = str(tmp_path / "repo")
    imported("--repo", path, "init")
    return path


def test_images(repo: str) -> None:
    found = imported("--repo", repo, "images")
    assert not HEAVY & found


@pytest.mark.parametrize("argv", [["ls", "-l"], ["cat"]])
def test_looking_into_an_image(tmp_path: Path, argv: list[str]) -> None:
    made = sample(tmp_path)
    where = ["--objects", str(made.object_dir), str(made.image_file)]
    found = imported(*argv, *where, "inline")
    assert not HEAVY & found
    assert "cfsrepo.images.view" in found


def test_help_needs_no_command() -> None:
    found = imported("help", "mount")
    assert not {name for name in found if name.startswith(("cfstools.commands.", "cfsfuse"))}


def test_wrong_words_need_little(tmp_path: Path) -> None:
    found = imported("--version")
    assert not {name for name in found if name.startswith("cfsrepo.")} - {"cfsrepo.errors"}


def test_what_is_deferred_is_there_when_it_is_used() -> None:
    code = (
        "import sys; from cfstools.deferred import defer; defer('inspect'); import inspect; "
        "assert 'ast' not in sys.modules; assert inspect.isfunction(defer); "
        "from inspect import signature; assert sys.modules['inspect'].signature is signature; "
        "import dataclasses; dataclasses.make_dataclass('A', ['a']); print('ok')"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": f"{CHECKOUT}/repo:{CHECKOUT}/tools"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")
