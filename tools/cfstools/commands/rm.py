"""`cfs rm NAME`: remove names of images, and what nothing needs then."""

from __future__ import annotations

from cfsrepo.upkeep.gc import collect
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.amounts import amount
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    """Remove; says what was freed."""
    with open_repository(args) as repository:
        for name in args.names:
            repository.untag(name)
        result = collect(repository, progress=progress_for(args))
    if not args.quiet:
        print(f"freed {amount(result.disk)}")
    return 0
