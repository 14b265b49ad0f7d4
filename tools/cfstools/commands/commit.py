"""`cfs commit`: an image of a bare-user tree."""

from __future__ import annotations

from typing import Final

from cfsrepo.errors import UsageError
from cfsrepo.oci.imagecommit import commit_oci
from cfsrepo.oci.merge import XattrMode
from cfsrepo.progress import Progress
from cfsrepo.worktree.commit import CommittedImage, commit
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for

_REPLACE: Final = "do not edit them in place, replace or remove them"


def run(args: Arguments) -> int:
    """Commit; prints the image's id and name."""
    progress = progress_for(args)
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
            "name": args.name,
            "image_id": made.image_id,
            "files_without_record": made.files_without_record,
            "files_chmodded": made.files_chmodded,
            "files_adopted": made.files_adopted,
        }
        print_json(result)
    else:
        print(f"{made.image_id} {args.name}" if args.name else made.image_id)
    return 0


def _commit(args: Arguments, progress: Progress) -> CommittedImage:
    with open_repository(args) as repo:
        if not args.oci:
            return commit(
                repo,
                args.directory,
                args.name,
                base=args.base,
                adopt=args.adopt,
                progress=progress,
            )
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
