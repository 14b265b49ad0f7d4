"""Waiting in tests: for a condition, with an end; and how to see that another one waits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

PATIENCE = 60.0
"""Seconds after which what has not happened counts as a failure, on a busy machine too."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Return as soon as `condition()` holds; fail the test, naming `what`, if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.005)


def is_waited_for(path: str) -> bool:
    """Whether somebody is blocked in flock(2) on the file or directory at `path`.

    The kernel lists those who wait in /proc/locks, marked with an arrow.
    """
    inode = os.stat(path).st_ino
    with open("/proc/locks", encoding="ascii") as locks:
        waiting = [fields for line in locks if (fields := line.split())[1] == "->"]
    return any(
        fields[2] == "FLOCK" and fields[6].rpartition(":")[2] == str(inode) for fields in waiting
    )
