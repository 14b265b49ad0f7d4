"""`cfs untag NAME`: remove a name; `cfs gc` then frees what nothing else names."""

from __future__ import annotations

from cfstools.context import open_repository
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        for name in args.names:
            if name not in repository.tags() and name in repository.image_refs():
                repository.unname_image(name)
            else:
                repository.untag(name)
    return 0
