"""Telling a process from a later one with the same number."""

from __future__ import annotations

import os

from cfsrepo.system.processes import boot_id, process_start_time


def test_start_time_of_no_process() -> None:
    assert process_start_time(2**22 + 1) is None
    assert process_start_time(os.getpid()) is not None


def test_the_boot_is_the_same_twice() -> None:
    assert boot_id() == boot_id() != ""
