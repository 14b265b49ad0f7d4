"""Text tables for people. Programs use `--json`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cfsrepo.errors import printable

_GAP = "  "


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Print aligned columns; `right` has a `>` at the place of each column of numbers.

    On a terminal that is too narrow for them `rich` folds the cells; it is loaded only then.
    """
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    to_right = [right[column : column + 1] == ">" for column in range(len(header))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    columns = _terminal_columns()
    if columns is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > columns:
        _print_folded(lines, to_right, columns)
        return
    for line in lines:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, to_right, strict=True)
        ]
        print(_GAP.join(cells).rstrip())


def _terminal_columns() -> int | None:
    """The width of the terminal on standard output; None where that is none, or has no width."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


def _print_folded(lines: Sequence[Sequence[str]], to_right: Sequence[bool], columns: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="")
    for title, number in zip(lines[0], to_right, strict=True):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    Console(width=columns, highlight=False, markup=False, emoji=False).print(table)
