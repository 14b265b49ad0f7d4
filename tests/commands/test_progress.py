"""What the user sees of a long operation, on a terminal and in a log."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import termios
import threading
from collections.abc import Iterator

import pytest

from cfstools.options import Arguments
from cfstools.render import progress as rendered
from cfstools.render.amounts import amount
from cfstools.render.progress import PlainProgress, QuietProgress, TerminalProgress, progress_for

LOUD = Arguments(quiet=False)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (1000, "B", "1.0 KiB"),
        (1023, "B", "1.0 KiB"),
        (1024, "B", "1.0 KiB"),
        (102_344, "B", "99.9 KiB"),
        (102_350, "B", "100 KiB"),
        (150 << 20, "B", "150 MiB"),
        (999 << 20, "B", "999 MiB"),
        (1000 << 20, "B", "1.0 GiB"),
        (5 << 30, "B", "5.0 GiB"),
        (3 << 40, "B", "3.0 TiB"),
        (5000 << 50, "B", "5000 PiB"),
        (7, "files", "7 files"),
    ],
)
def test_amounts_are_readable(number: int, unit: str, text: str) -> None:
    assert amount(number, unit) == text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_a_task() -> None:
    out = io.StringIO()
    progress = progress_for(LOUD, out)
    assert isinstance(progress, PlainProgress)
    progress.start("layer 1", 100)
    progress.advance("layer 1", 100)
    progress.finish("layer 1")
    progress.message("a warning\x1b[2J")
    assert out.getvalue() == "layer 1: 100 B\na warning\\x1b[2J\n"


def test_a_long_task_shows_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    progress = PlainProgress(out)
    progress.start("layer 1", 400, "files")
    monkeypatch.setattr(rendered, "LOG_SECONDS", 0.0)
    progress.advance("layer 1", 100)
    assert out.getvalue() == "layer 1: 100 files of 400 files (25 %)\n"


def drawn(leader: int, *awaited: str) -> str:
    """What is drawn on the terminal until `awaited` is there, without codes for the cursor."""
    text = ""
    while True:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        if text and all(word in plain for word in awaited):
            return plain
        assert select.select([leader], [], [], 60)[0], f"{awaited} not in {plain!r}"
        text += os.read(leader, 1 << 20).decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TerminalProgress, int]]:
    """Progress on a terminal of 100 columns, which is drawn with each event; its other end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(rendered, "REDRAW_SECONDS", 0.0)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    with os.fdopen(follower, "w") as stream:
        progress = progress_for(LOUD, stream)
        assert isinstance(progress, TerminalProgress)
        yield progress, leader
        progress.clear()
    os.close(leader)


def test_a_terminal_gets_a_bar_for_each_task(terminal: tuple[TerminalProgress, int]) -> None:
    progress, leader = terminal
    progress.start("layer one", 10 << 20)
    progress.start("layer two", 40, "files")
    progress.advance("layer one", 5 << 20)
    progress.advance("layer two", 10)
    shown = drawn(leader, "10 files of 40 files (25 %)")
    last = shown.rpartition("layer one")[2]
    assert "5.0 MiB of 10.0 MiB (50 %)" in last, "beside the other one"
    assert "layer two" in last
    progress.advance("layer one", 1 << 20)
    progress.advance("layer one", 1 << 20)
    shown = drawn(leader, "7.0 MiB of 10.0 MiB", "MiB/s")
    assert re.search("[0-9]:[0-9][0-9]", shown), "time left"


def test_lines_stay_and_bars_go(terminal: tuple[TerminalProgress, int]) -> None:
    progress, leader = terminal
    progress.start("a", None)
    progress.advance("a", 2048)
    drawn(leader, "2.0 KiB")
    progress.message("a [red]warning\x1b[2J")
    drawn(leader, "a [red]warning\\x1b[2J\r\n")
    progress.finish("a", "done")
    drawn(leader, "a: done\r\n")
    progress.message("after")
    assert "━" not in drawn(leader, "after\r\n"), "no bar is left"


def test_bars_of_what_is_given_up_are_taken_away(
    terminal: tuple[TerminalProgress, int],
) -> None:
    progress, leader = terminal
    progress.start("a", 10)
    drawn(leader, "0 B of 10 B")
    rendered.clear()
    progress.message("cfs: error")
    assert drawn(leader, "cfs: error\r\n").endswith("\rcfs: error\r\n")


def test_no_thread_and_no_cursor(terminal: tuple[TerminalProgress, int]) -> None:
    progress, leader = terminal
    before = threading.active_count()
    progress.start("a", 10)
    assert threading.active_count() == before
    progress.finish("a")
    progress.message("end")
    shown = b""
    while b"end\r\n" not in shown:
        shown += os.read(leader, 1 << 20)
    assert b"\x1b[?25" not in shown, "a cursor that is hidden may stay so"


def test_the_bars_never_wrap(terminal: tuple[TerminalProgress, int]) -> None:
    progress, leader = terminal
    progress.start("x" * 500, 10)
    assert all(len(line) <= 100 for line in drawn(leader, "0 B of 10 B").splitlines())


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_for(LOUD, Terminal()), PlainProgress)


def test_quiet_shows_only_what_the_user_should_know() -> None:
    out = io.StringIO()
    quiet = progress_for(Arguments(quiet=True), out)
    assert isinstance(quiet, QuietProgress)
    quiet.start("layer 1", 100)
    quiet.advance("layer 1", 100)
    quiet.finish("layer 1")
    quiet.message("a warning\x1b[2J")
    assert out.getvalue() == "a warning\\x1b[2J\n"
