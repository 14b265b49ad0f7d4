"""`cfs fsck [IMAGE...]`: check the repository, and repair it."""

from __future__ import annotations

import sys

from cfsrepo.errors import EXIT_FOUND, EXIT_OK, UsageError, printable
from cfsrepo.images import names
from cfsrepo.upkeep import fsck
from cfsrepo.upkeep.findings import Checked, Need, Problem
from cfsrepo.upkeep.repair import Repaired, repair
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.amounts import amount
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for

_PATHS_SHOWN = 5


def run(args: Arguments) -> int:
    if args.sources and not args.repair:
        raise UsageError("--from is for --repair")
    progress = progress_for(args)
    with open_repository(args, check_policy=False) as repository:
        images = [names.resolve(repository, name) for name in args.images] or None
        checked = fsck.check(
            repository,
            images,
            metadata_only=args.metadata_only,
            deep=args.deep,
            progress=progress,
        )
        repaired = None
        if args.repair and not checked.clean:
            repaired = repair(repository, checked, args.sources, progress)
    if args.json:
        record = _record(checked)
        if repaired is not None:
            record["repair"] = _repair_record(repaired)
        print_json(record)
    else:
        _print(checked, args.verbose)
        if repaired is not None:
            _print_repaired(repaired)
        elif checked.bad_objects():
            print("cfs: 'cfs fsck --repair --from SOURCE' makes them good again", file=sys.stderr)
    clean = checked.clean if repaired is None else not repaired.left
    return EXIT_OK if clean else EXIT_FOUND


def _print_repaired(repaired: Repaired) -> None:
    for path in repaired.quarantined:
        print(printable(f"{path}: moved to quarantine"))
    for problem in repaired.left:
        print(printable(f"{problem.path}: not repaired ({problem.kind})"))
    print(
        f"repaired {len(repaired.restored)}, moved {len(repaired.quarantined)} to quarantine, "
        f"{len(repaired.left)} not repaired"
    )


def _repair_record(repaired: Repaired) -> dict[str, object]:
    return {
        "restored": repaired.restored,
        "quarantined": repaired.quarantined,
        "left": [problem_record(problem) for problem in repaired.left],
    }


def _print(checked: Checked, verbose: bool) -> None:
    for problem in checked.problems:
        detail = f": {problem.detail}" if problem.detail else ""
        print(printable(f"{problem.path}: {problem.kind}{detail}"))
        for need in problem.needs:
            print(printable(f"    needed by {need.name}{_paths(need, verbose)}"))
        if not problem.needs and problem.streams:
            print(printable(f"    needed by {', '.join(problem.streams)}"))
    print(
        f"checked {checked.objects} objects ({amount(checked.size)}), {checked.streams} streams, "
        f"{checked.images} images, {checked.names} names: "
        + (f"{len(checked.problems)} problems" if checked.problems else "clean")
    )


def _paths(need: Need, verbose: bool) -> str:
    if not need.paths:
        return ""
    shown = need.paths if verbose else need.paths[:_PATHS_SHOWN]
    more = len(need.paths) - len(shown)
    text = ", ".join(printable(path) for path in shown)
    return f": {text}" + (f" and {more} more (-v shows all)" if more else "")


def _record(checked: Checked) -> dict[str, object]:
    return {
        "clean": checked.clean,
        "objects": checked.objects,
        "size": checked.size,
        "streams": checked.streams,
        "images": checked.images,
        "names": checked.names,
        "problems": [problem_record(problem) for problem in checked.problems],
    }


def problem_record(problem: Problem) -> dict[str, object]:
    """A problem as JSON. Paths of images are decoded as os.fsdecode does."""
    return {
        "kind": str(problem.kind),
        "path": problem.path,
        "detail": problem.detail,
        "digest": None if problem.digest is None else problem.digest.hex(),
        "streams": problem.streams,
        "images": [
            {
                "name": need.name,
                "image_id": need.image_id,
                "paths": [path.decode("utf-8", "surrogateescape") for path in need.paths],
            }
            for need in problem.needs
        ],
    }
