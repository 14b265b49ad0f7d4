"""Signals that have to wait for a moment in which they can be answered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
"""What asks a server, or who starts one, to end."""


@contextmanager
def endings_blocked() -> Iterator[None]:
    """SIGTERM and SIGINT wait inside the block, until its end or until somebody unblocks them.

    Threads started inside get neither.
    """
    old = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
