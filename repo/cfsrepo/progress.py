"""Progress as events: the library tells, a front end shows.

A long operation takes a `Progress` and calls it; the default does nothing. Amounts are bytes unless
the unit says otherwise. Calls come from one thread.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a front end implements to follow a long operation."""

    def start(self, task: str, total: int | None, unit: str = "B") -> None:
        """`task` begins; `total` is its amount of `unit`s, None when unknown."""

    def advance(self, task: str, amount: int) -> None:
        """`amount` more of `task` is done."""

    def finish(self, task: str, note: str = "") -> None:
        """`task` is complete; `note` is a short result for the reader."""

    def message(self, text: str) -> None:
        """Something the user should know that is no failure (a warning)."""


class NoProgress:
    """Follows nothing."""

    def start(self, task: str, total: int | None, unit: str = "B") -> None:
        """Ignore."""

    def advance(self, task: str, amount: int) -> None:
        """Ignore."""

    def finish(self, task: str, note: str = "") -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Ignore."""
