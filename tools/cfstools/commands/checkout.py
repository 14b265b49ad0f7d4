"""`cfs checkout`: an image as an ordinary directory that its user can edit."""

from __future__ import annotations

import argparse
import os
import sys

from cfsrepo.worktree.baretree import Worktree
from cfstools.context import open_repository
from cfstools.progressbar import progress_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cfs checkout`."""
    parser.add_argument(
        "image", metavar="IMAGE", help="name, tag, OCI digest or image id (or a unique prefix)"
    )
    parser.add_argument("directory", metavar="DIR", help="an empty or new directory")
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="only these, and what is below them"
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="do not check contents against their digests (faster)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the tree."""
    with open_repository(args) as repo:
        Worktree.checkout(
            repo,
            args.image,
            args.directory,
            [os.fsencode(path) for path in args.paths],
            progress=progress_for(sys.stderr),
            verify=not args.no_verify,
        )
    return 0
