"""`cfs checkout`: an image as an ordinary directory that its user can edit."""

from __future__ import annotations

import os

from cfsrepo.worktree.checkout import checkout
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    """Write the tree."""
    with open_repository(args) as repo:
        checkout(
            repo,
            args.image,
            args.directory,
            [os.fsencode(path) for path in args.paths],
            progress=progress_for(args),
            verify=not args.no_verify,
            force=args.force,
        )
    return 0
