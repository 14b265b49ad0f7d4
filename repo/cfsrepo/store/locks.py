"""Who may do what with a repository at the same time: flock(2) on its directory.

Shared as long as the repository is open, exclusive while something is removed. flock knows no
order: shared locks that overlap each other would keep a collector out for ever. So a
process that waits for the exclusive lock holds the lock of `cfsfuse/turnstile` meanwhile, and a
process that opens the repository waits for that one first, for a moment.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.temporary import make_directory
from cfsrepo.system import linux

_TURNSTILE: Final = f"{PRIVATE_DIRECTORY}/turnstile"
_TURNSTILE_WAIT: Final = 1.0  # seconds
_TURNSTILE_POLL: Final = 0.005


def lock_for_use(fd: int) -> None:
    """Take the shared lock of the repository's directory `fd`."""
    _pass_turnstile(fd)
    linux.lock_shared(fd)


def _pass_turnstile(fd: int) -> None:
    """Let a collector go first that waits for the exclusive lock.

    The wait is short, since whoever opens may be the one that the collector waits for.
    """
    try:
        with linux.opened(_TURNSTILE, os.O_RDONLY, dir_fd=fd) as turnstile:
            deadline = time.monotonic() + _TURNSTILE_WAIT
            while not linux.lock_shared(turnstile, wait=False) and time.monotonic() < deadline:
                time.sleep(_TURNSTILE_POLL)
    except (FileNotFoundError, PermissionError):
        return


@contextlib.contextmanager
def exclusive(fd: int, waiting: Callable[[str], object]) -> Iterator[None]:
    """Hold the exclusive lock of the directory `fd` for a `with` block, then the shared one again.

    The shared lock is given up while waiting. `waiting` is told when that takes time.
    """
    if not linux.lock_exclusive(fd, wait=False):
        waiting("waiting for others to close the repository")
        # Nobody may hold the one lock while waiting for the other.
        linux.unlock(fd)
        make_directory(PRIVATE_DIRECTORY, fd)
        flags = os.O_RDONLY | os.O_CREAT
        with linux.opened(_TURNSTILE, flags, dir_fd=fd, mode=0o644) as turnstile:
            linux.lock_exclusive(turnstile)
            linux.lock_exclusive(fd)
    try:
        yield
    finally:
        linux.lock_shared(fd)
