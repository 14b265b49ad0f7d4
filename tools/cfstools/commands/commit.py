"""`cfs commit`: an image of a bare-user tree."""

from __future__ import annotations

import argparse
import json
import sys

from cfsrepo.worktree import Worktree
from cfstools.context import open_repository
from cfstools.progressbar import progress_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cfs commit`."""
    parser.add_argument("directory", metavar="DIR", help="what `cfs checkout` or `unpack` made")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to call the image")
    parser.add_argument(
        "--base",
        metavar="IMAGE",
        help="files without a record have the owner and rights of the same path in IMAGE",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Commit; prints the image's id and name."""
    progress = progress_for(sys.stderr)
    with open_repository(args) as repo:
        made = Worktree(args.directory).commit(repo, args.name, base=args.base, progress=progress)
    if made.files_chmodded:
        progress.message(
            f"the mode of {made.files_chmodded} files was changed on disk; their records count "
            "('cfs meta check' lists them, 'cfs meta set --mode' changes them)"
        )
    if args.json:
        result = {
            "image": made.image_id,
            "name": args.name,
            "files_without_record": made.files_without_record,
            "files_chmodded": made.files_chmodded,
        }
        print(json.dumps(result, indent=2))
    else:
        print(f"{made.image_id} {args.name}" if args.name else made.image_id)
    return 0
