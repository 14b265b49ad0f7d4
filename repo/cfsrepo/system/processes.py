"""Telling a process from a later one with the same number: by its start time and the boot."""

from __future__ import annotations

from typing import Final

_START_TIME_FIELD: Final = 22  # of /proc/PID/stat, counted from 1


def boot_id() -> str:
    """The kernel's identifier of the current boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def process_start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where it is gone or a zombie.

    proc(5). Only processes of our PID namespace are seen.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is a name in parentheses, in which anything can stand.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[_START_TIME_FIELD - 3])
