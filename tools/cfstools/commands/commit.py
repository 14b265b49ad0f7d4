"""`cfs commit`: an image of a bare-user tree."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from cfsrepo.errors import UsageError
from cfsrepo.oci.commit import commit_oci
from cfsrepo.oci.merge import XattrMode
from cfsrepo.progress import Progress
from cfsrepo.worktree.baretree import CommittedImage, Worktree
from cfstools.context import open_repository
from cfstools.progressbar import progress_for

_REPLACE: Final = "do not edit them in place, replace or remove them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cfs commit`."""
    parser.add_argument("directory", metavar="DIR", help="what `cfs checkout` or `unpack` made")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to call the image")
    parser.add_argument(
        "--base",
        metavar="IMAGE",
        help="files without a record have the owner and rights of the same path in IMAGE",
    )
    parser.add_argument(
        "--oci",
        action="store_true",
        help="make an OCI image: the layers of --base and one with the difference",
    )
    parser.add_argument(
        "--xattrs",
        choices=[mode.value for mode in XattrMode],
        default=XattrMode.OCI.value,
        help="with --oci: extended attributes that the image keeps, as with `cfs pull`",
    )
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="make files of DIR that have a record objects of the repository by hard links instead "
        "of copying them; they must not be edited in place afterwards, only replaced or removed",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Commit; prints the image's id and name."""
    progress = progress_for(sys.stderr)
    try:
        made = _commit(args, progress)
    except BaseException:
        if args.adopt:
            progress.message(f"{args.directory}: files may be objects already: {_REPLACE}")
        raise
    if made.files_adopted:
        progress.message(
            f"{args.directory}: {made.files_adopted} files are objects of the repository now: "
            + _REPLACE
        )
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
            "files_adopted": made.files_adopted,
        }
        print(json.dumps(result, indent=2))
    else:
        print(f"{made.image_id} {args.name}" if args.name else made.image_id)
    return 0


def _commit(args: argparse.Namespace, progress: Progress) -> CommittedImage:
    with open_repository(args) as repo:
        if not args.oci:
            tree = Worktree(args.directory)
            return tree.commit(repo, args.name, base=args.base, adopt=args.adopt, progress=progress)
        if args.name is None:
            raise UsageError("an OCI image needs a name: cfs commit --oci DIR NAME")
        return commit_oci(
            repo,
            args.directory,
            args.name,
            base=args.base,
            adopt=args.adopt,
            xattrs=XattrMode(args.xattrs),
            progress=progress,
        )
