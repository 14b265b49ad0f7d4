"""JSON for programs: with `--json` a command prints one value, an object or an array.

`cfstools.options.json_output` declares what each command prints. Strings of names that are not
UTF-8 have lone surrogates, as `os.fsdecode` makes them; everything but ASCII is escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Thing = TypeVar("_Thing")


def print_json(value: object) -> None:
    """Print one value, indented."""
    import json  # slow to import; few commands are asked for it

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def listing(
    as_json: bool, record: Callable[[_Thing], object], line: Callable[[_Thing], str]
) -> Iterator[Callable[[_Thing], None]]:
    """Print things as they are found: the `line` of each, or an array with the `record` of each.

    A block that raises leaves an array without its end, which no parser takes for the whole.
    """
    if not as_json:
        yield lambda thing: print(line(thing))
        return
    import json

    before = "[\n"

    def add(thing: _Thing) -> None:
        nonlocal before
        sys.stdout.write(before + json.dumps(record(thing)))
        before = ",\n"

    yield add
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
