"""`cfs untag NAME`: remove a name; `cfs gc` then frees what nothing else names."""

from __future__ import annotations

from cfstools.context import open_repository
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        for name in args.names:
            repository.untag(name)
    return 0
