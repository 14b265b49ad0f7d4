"""`cfs status DIR`: what was changed in a bare-user tree."""

from __future__ import annotations

from cfsrepo.errors import EXIT_OK
from cfsrepo.worktree.status import Status, status
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.differences import difference_line, difference_record
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    """Print the differences; the exit code does not tell whether there are any."""
    with open_repository(args) as repository:
        found = status(repository, args.directory, args.base, progress=progress_for(args))
    if args.json:
        print_json(_record(found))
        return EXIT_OK
    for difference in found.differences:
        print(difference_line(difference))
    if not args.quiet:
        _explain(args.directory, found)
    return EXIT_OK


def _explain(directory: str, found: Status) -> None:
    if not found.differences:
        print(f"{directory}: as the image {found.image_id}")
    if found.files_chmodded:
        print(
            f"the mode of {found.files_chmodded} files was changed on disk; their records count "
            "('cfs meta set --mode' changes them)"
        )


def _record(found: Status) -> dict[str, object]:
    return {
        "image_id": found.image_id,
        "differences": [difference_record(difference) for difference in found.differences],
        "files_without_record": found.files_without_record,
        "files_chmodded": found.files_chmodded,
    }
