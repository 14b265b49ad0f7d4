"""How long ago something was, for people."""

from __future__ import annotations

import time

# Seconds of a unit, and its name, the longest first. A month and a year are of average length.
_UNITS = (
    (31_556_952, "year"),
    (2_629_746, "month"),
    (7 * 86_400, "week"),
    (86_400, "day"),
    (3_600, "hour"),
    (60, "minute"),
    (1, "second"),
)


def age(seconds: float) -> str:
    """`2 weeks ago`, for an age in seconds; a time in the future is said to be so."""
    ago = int(abs(seconds))
    for size, name in _UNITS:
        if ago >= size:
            number = ago // size
            text = f"{number} {name}{'s' if number > 1 else ''}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "now"


def dated(text: str, now: float | None = None) -> str:
    """A time of RFC 3339 as its date with the age beside it; `-` where it is none."""
    ago = age_of(text, now)
    return f"{text[:10]} ({ago})" if ago else "-"


def age_of(text: str, now: float | None = None) -> str:
    """The age of a time of RFC 3339; empty where it is none."""
    seconds = _epoch(text)
    if seconds is None:
        return ""
    return age((time.time() if now is None else now) - seconds)


def _epoch(text: str) -> float | None:
    if not text:
        return None
    from datetime import UTC, datetime  # slow to import, and often there is no time

    try:
        # Python 3.11 takes RFC 3339, but not nine digits of a second.
        head, dot, tail = text.partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        when = datetime.fromisoformat(f"{head}{dot}{tail[: min(digits, 6)]}{tail[digits:]}")
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
