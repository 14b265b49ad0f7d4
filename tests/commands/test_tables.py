"""Tables for people."""

from __future__ import annotations

import os
import pty
import sys
import termios

import pytest

from cfstools.render.tables import print_table

HEADER = ("NAME", "SIZE")
ROWS = [("debian", "1"), ("a\x1b[2J", "100")]


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HEADER, ROWS, right=" >")
    assert capsys.readouterr().out == "NAME      SIZE\ndebian       1\na\\x1b[2J   100\n"


def test_nothing_but_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HEADER, [])
    assert capsys.readouterr().out == "NAME  SIZE\n"


@pytest.mark.parametrize("columns", [200, 30])
def test_a_narrow_terminal_folds_cells(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    with os.fdopen(follower, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        print_table(HEADER, [("x" * 40, "[red]7")], right=" >")
        stream.flush()
        monkeypatch.undo()
        shown = ""
        while "7" not in shown or shown.count("x") < 40 or not shown.endswith("\n"):
            shown += os.read(leader, 4096).decode()
    os.close(leader)
    lines = shown.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert shown.count("x") == 40
    assert len(lines) == (2 if columns == 200 else 3)
    assert "[red]7" in shown
