"""Text tables and amounts for people. Programs use `--json`."""

from __future__ import annotations

from collections.abc import Sequence

from cfsrepo.errors import printable

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def amount(size: int) -> str:
    """A number of bytes in the unit that leaves at most four digits: `17.3 MiB`."""
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Print aligned columns; `right` has a `>` at the place of each column of numbers."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if right[column : column + 1] == ">" else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
