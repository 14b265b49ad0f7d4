"""Short runs of the campaigns; `make campaign` has the long ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

RUN = os.path.join(CHECKOUT, "tools", "campaign", "run.py")


def run(tmp_path: Path, *arguments: str) -> str:
    command = [sys.executable, RUN, "--directory", str(tmp_path), "--files=40", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_commands_can_be_killed(tmp_path: Path) -> None:
    said = run(tmp_path, "--rounds=15", "--full-rounds=0", "--seconds=0")
    assert "killed: 15 rounds in all" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_disks_can_be_full(tmp_path: Path, as_root: None) -> None:
    said = run(tmp_path, "--rounds=0", "--full-rounds=10", "--seconds=0")
    assert "full: 10 rounds in all" in said


def test_everybody_at_once(tmp_path: Path) -> None:
    said = run(tmp_path, "--rounds=0", "--full-rounds=0", "--seconds=5")
    for name in ("puller 3", "tagger", "collector", "reader 1"):
        assert name in said
