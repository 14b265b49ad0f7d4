"""Amounts for people: one spelling everywhere. Programs use `--json`, which has bytes."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def amount(number: float, unit: str = "B") -> str:
    """`number` of `unit`. Bytes get the unit that leaves at most three digits: `17.3 MiB`."""
    if unit != "B":
        return f"{number:.0f} {unit}"
    value = float(number)
    for prefixed in _UNITS:
        # 999.5 would be rounded to four digits.
        if value < 999.5 or prefixed == _UNITS[-1]:
            break
        value /= 1024
    digits = 0 if prefixed == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f} {prefixed}"
