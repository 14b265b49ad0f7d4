"""What the user sees of a long operation, on a terminal and in a log."""

from __future__ import annotations

import io
import os
import pty

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


def test_a_terminal_gets_a_bar_and_lines_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(rendered, "REDRAW_SECONDS", 0.0)
    out = Terminal()
    progress = progress_for(LOUD, out)
    assert isinstance(progress, TerminalProgress)
    progress.start("a", 10)
    progress.start("b", 10)
    progress.advance("b", 5)
    assert "b [############------------] 5 B of 10 B (50 %) (+1)" in out.getvalue()
    progress.finish("b", "done")
    progress.finish("a")
    assert "\r\x1b[Kb: done\n" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[Ka: 0 B\n")


def test_the_bar_never_wraps() -> None:
    leader, follower = pty.openpty()
    try:
        with os.fdopen(follower, "w") as stream:
            TerminalProgress(stream).start("x" * 500, 10)
            assert len(os.read(leader, 4096)) < 100
    finally:
        os.close(leader)


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
