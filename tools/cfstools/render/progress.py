"""Progress on a terminal or in a log: what a front end makes of `cfsrepo.progress` events.

On a terminal each task has a bar with its speed and the time left, redrawn at most ten times a
second and replaced, when the task ends, by a line that stays. Elsewhere (a file, a pipe) there are
only plain lines: one when a task ends, and one every ten seconds while it lasts, so that a log
shows that something still goes on.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from cfsrepo.errors import printable
from cfsrepo.progress import Progress
from cfstools.options import Arguments
from cfstools.render.amounts import amount

if TYPE_CHECKING:
    from cfstools.render import bars

REDRAW_SECONDS = 0.1
LOG_SECONDS = 10.0


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
    """A bar for each task that is under way, and a line that stays for each finished one.

    `rich` draws them, when events come and the last time is long enough ago: it has no thread here,
    since commands fork. It is loaded with the first task.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: bars.Bars | None = None
        self._tasks: dict[str, _Task] = {}
        self._drawn = 0.0
        _on_terminal.append(self)

    def start(self, task: str, total: int | None, unit: str = "B") -> None:
        """Show `task`."""
        if self._bars is None:
            from cfstools.render import bars

            self._bars = bars.Bars(self._stream)
        self._tasks[task] = _Task(total, unit)
        self._bars.add(task, total, unit)
        self._draw()

    def advance(self, task: str, amount: int) -> None:
        """Count; redraw when the last time is long enough ago."""
        self._tasks[task].done += amount
        assert self._bars is not None, "start comes first"
        self._bars.update(task, self._tasks[task].done)
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self, task: str, note: str = "") -> None:
        """Replace the bar by a line that stays."""
        state = self._tasks.pop(task)
        assert self._bars is not None, "start comes first"
        self._bars.remove(task)
        self.message(f"{task}: {note or amount(state.done, state.unit)}")

    def message(self, text: str) -> None:
        """A line that stays, above the bars."""
        if self._bars is None:
            print(printable(text), file=self._stream, flush=True)
        else:
            self._bars.line(printable(text))
            if not self._tasks:
                self.clear()

    def clear(self) -> None:
        """Take the bars away: what is printed next begins on a line of its own."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._bars is not None:
            self._bars.draw()


_on_terminal: list[TerminalProgress] = []


def clear() -> None:
    """Take away the bars of an operation that was given up."""
    for progress in _on_terminal:
        progress.clear()
