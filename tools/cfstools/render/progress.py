"""Progress on a terminal or in a log: what a front end makes of `cfsrepo.progress` events.

On a terminal one line at the bottom is redrawn at most ten times a second and replaced, when a task
ends, by a line that stays. Elsewhere (a file, a pipe) there are only plain lines: one when a task
ends, and one every ten seconds while it lasts, so that a log shows that something still goes on.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from cfsrepo.errors import printable
from cfsrepo.progress import Progress
from cfstools.options import Arguments
from cfstools.render.amounts import amount

REDRAW_SECONDS = 0.1
LOG_SECONDS = 10.0
BAR_CELLS = 24


def progress_for(args: Arguments, stream: TextIO | None = None) -> Progress:
    """What shows progress on `stream`, by default standard error, as `args` want it.

    A bar where it is a terminal that can redraw a line, else plain lines; with `--quiet` only what
    the user should know.
    """
    stream = sys.stderr if stream is None else stream
    if args.quiet:
        return QuietProgress(stream)
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return TerminalProgress(stream)
    return PlainProgress(stream)


@dataclass(slots=True)
class _Task:
    total: int | None
    unit: str
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    def state(self) -> str:
        """How far it is: `12.0 MiB of 30.0 MiB (40 %)`."""
        done = amount(self.done, self.unit)
        if not self.total:
            return done
        percent = min(100, 100 * self.done // self.total)
        return f"{done} of {amount(self.total, self.unit)} ({percent} %)"


class QuietProgress:
    """Messages only."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def start(self, task: str, total: int | None, unit: str = "B") -> None:
        """Show nothing."""

    def advance(self, task: str, amount: int) -> None:
        """Show nothing."""

    def finish(self, task: str, note: str = "") -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """One line."""
        print(printable(text), file=self._stream, flush=True)


class PlainProgress:
    """Plain lines, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tasks: dict[str, _Task] = {}

    def start(self, task: str, total: int | None, unit: str = "B") -> None:
        """Note that `task` began."""
        self._tasks[task] = _Task(total, unit)

    def advance(self, task: str, amount: int) -> None:
        """Count; a line when there was none for long."""
        state = self._tasks[task]
        state.done += amount
        now = time.monotonic()
        if now - state.logged >= LOG_SECONDS:
            state.logged = now
            self._line(f"{task}: {state.state()}")

    def finish(self, task: str, note: str = "") -> None:
        """One line: what was done."""
        state = self._tasks.pop(task)
        self._line(f"{task}: {note or amount(state.done, state.unit)}")

    def message(self, text: str) -> None:
        """One line."""
        self._line(text)

    def _line(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


class TerminalProgress:
    """One redrawn line at the bottom, and a line that stays for each finished task."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tasks: dict[str, _Task] = {}
        self._drawn = 0.0
        self._shown = False

    def start(self, task: str, total: int | None, unit: str = "B") -> None:
        """Show `task`."""
        self._tasks[task] = _Task(total, unit)
        self._draw()

    def advance(self, task: str, amount: int) -> None:
        """Count; redraw when the last time is long enough ago."""
        self._tasks[task].done += amount
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self, task: str, note: str = "") -> None:
        """Replace the bar by a line that stays."""
        state = self._tasks.pop(task)
        self._line(f"{task}: {note or amount(state.done, state.unit)}")

    def message(self, text: str) -> None:
        """A line that stays, above the bar."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._clear()
        print(printable(text), file=self._stream, flush=True)
        if self._tasks:
            self._draw()

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._shown = False

    def _draw(self) -> None:
        """Show the task that began last, and how many others are under way."""
        task, state = next(reversed(self._tasks.items()))
        bar = ""
        if state.total:
            cells = min(BAR_CELLS, BAR_CELLS * state.done // state.total)
            bar = f"[{'#' * cells}{'-' * (BAR_CELLS - cells)}] "
        others = f" (+{len(self._tasks) - 1})" if len(self._tasks) > 1 else ""
        text = printable(f"{task} {bar}{state.state()}{others}")
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:  # no terminal any more, or one without a size
            columns = 80
        # One cell stays free: a line as wide as the terminal wraps and could not be redrawn.
        self._clear()
        self._stream.write(text[: max(columns - 1, 1)])
        self._stream.flush()
        self._shown = True
        self._drawn = time.monotonic()
