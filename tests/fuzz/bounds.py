"""Bounds of time and memory for a fuzz target, checked inside it.

libFuzzer's own limits are for hangs and for the whole process. Here each input has a budget by its
size, so that an input of some hundred bytes that costs seconds or many megabytes is a finding.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import wraps

Target = Callable[[bytes], None]

# Instrumented code is some ten times slower than usual, and the machine may be busy.
SECONDS = 5.0
SECONDS_FOR_A_BYTE = 1e-3
MEMORY = 96 << 20
MEMORY_FOR_A_BYTE = 1024


def bounded(target: Target) -> Target:
    """`target`, failing when an input takes more time or memory than its size may cost.

    Time is that of this process's CPUs. Memory is by how much the process has grown beyond what it
    ever had before.
    """

    @wraps(target)
    def checked(data: bytes) -> None:
        began, peak = time.process_time(), _peak()
        target(data)
        seconds, grown = time.process_time() - began, _peak() - peak
        assert seconds <= SECONDS + len(data) * SECONDS_FOR_A_BYTE, f"{seconds:.1f} s"
        assert grown <= MEMORY + len(data) * MEMORY_FOR_A_BYTE, f"{grown >> 20} MiB"

    return checked


def _peak() -> int:
    """The most memory that this process ever had at once, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
