"""`cfs gc`: remove what no name, pin or mount needs."""

from __future__ import annotations

import sys

from cfsrepo.upkeep.gc import Collected, collect
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.amounts import amount
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        result = collect(repository, dry_run=args.dry_run, progress=progress_for(args))
    if args.json:
        print_json(_record(result, args.dry_run))
        return 0
    for path in result.strays:
        print(f"cfs: {path}: not an object, left alone", file=sys.stderr)
    for pin_id in result.damaged_pins:
        print(
            f"cfs: pin {pin_id} cannot be read: what it may be for is kept "
            f"('cfs unpin {pin_id}' removes it, if that is not mounted any more)",
            file=sys.stderr,
        )
    if args.verbose:
        for image_id, reasons in sorted(result.kept.items()):
            print(f"kept {image_id[:12]}: {', '.join(reasons)}")
    verb = "would free" if args.dry_run else "freed"
    print(
        f"{verb} {amount(result.disk)}: {result.objects} objects ({amount(result.size)}), "
        f"{result.streams} streams, {result.images} images"
    )
    return 0


def _record(result: Collected, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "objects": result.objects,
        "size": result.size,
        "disk": result.disk,
        "streams": result.streams,
        "images": result.images,
        "leftovers": result.leftovers,
        "dead_pins": result.pins,
        "damaged_pins": result.damaged_pins,
        "strays": result.strays,
        "kept": result.kept,
    }
