"""Bars on a terminal, side by side, drawn by `rich`. Slow to import: only long operations do."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from cfsrepo.errors import printable
from cfstools.render.amounts import amount


class _Terminal(Console):
    """A console that leaves the cursor alone: a program that is killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        """Do nothing."""
        return False


class _Name(ProgressColumn):
    def render(self, task: Task) -> Text:
        """What the task is called; the end is cut off where there is no room."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        """`12.0 MiB of 30.0 MiB (40 %)`."""
        unit = task.fields["unit"]
        done = amount(task.completed, unit)
        if not task.total:
            return Text(done, no_wrap=True)
        percent = min(100, int(100 * task.completed // task.total))
        return Text(f"{done} of {amount(task.total, unit)} ({percent} %)", no_wrap=True)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """`3.1 MiB/s`; nothing as long as it is not known."""
        if task.speed is None:
            return Text("")
        return Text(f"{amount(task.speed, task.fields['unit'])}/s", no_wrap=True)


class Bars:
    """The bars of the tasks that are under way. Nothing is drawn but by `draw` and `line`."""

    def __init__(self, stream: TextIO) -> None:
        self._console = _Terminal(file=stream, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            _Name(table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=24),
            _Amount(),
            _Speed(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            auto_refresh=False,  # no thread
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._ids: dict[str, TaskID] = {}
        self._progress.start()

    def add(self, task: str, total: int | None, unit: str) -> None:
        """One more bar."""
        self._ids[task] = self._progress.add_task(printable(task), total=total, unit=unit)

    def update(self, task: str, done: int) -> None:
        """How far a task is."""
        self._progress.update(self._ids[task], completed=done)

    def remove(self, task: str) -> None:
        """A bar less."""
        self._progress.remove_task(self._ids.pop(task))

    def line(self, text: str) -> None:
        """A line above the bars, that stays."""
        self._console.print(text, soft_wrap=True)
        self._progress.refresh()

    def draw(self) -> None:
        """Draw all bars."""
        self._progress.refresh()

    def stop(self) -> None:
        """Take the bars away."""
        self._progress.stop()
