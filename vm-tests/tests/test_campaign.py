"""A short campaign of kills, where `verity enable` is among the victims."""

from __future__ import annotations

import sys
from pathlib import Path

from vmhelpers import run


def test_whatever_is_killed_the_repository_is_sound(place: Path) -> None:
    rounds = ("--rounds=5", "--full-rounds=1", "--seconds=0", "--files=40", "--seed=7")
    done = run(sys.executable, "/vm/campaign/run.py", *rounds, f"--directory={place}")
    print(done.stdout)
    assert "verity" in done.stdout
