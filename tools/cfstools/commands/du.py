"""`cfs du [IMAGE...]`: what images cost, what they share, what a collection would free."""

from __future__ import annotations

from cfsrepo.images import names
from cfsrepo.upkeep.du import ImageUsage, Usage, usage
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.amounts import amount
from cfstools.render.jsontext import print_json
from cfstools.render.tables import print_table


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        wanted = {names.resolve(repository, name).image_id for name in args.images}
        result = usage(repository)
    images = [found for found in result.images if not wanted or found.image.image_id in wanted]
    if args.json:
        print_json(_record(result, images))
        return 0
    print_table(
        ("NAME", "IMAGE ID", "FILES", "RESTORE SIZE", "RAW DATA", "UNIQUE", "SHARED"),
        [
            (
                ", ".join(found.names) or "-",
                found.image.image_id[:12],
                str(found.files),
                *(amount(n) for n in (found.apparent, found.disk, found.unique, found.shared)),
            )
            for found in images
        ],
        right="  >>>>>",
    )
    if not wanted:
        print()
        for label, size in (
            ("unique to one image", result.unique),
            ("shared by several", result.shared),
            ("kept, of no image", result.other),
            ("unused", result.garbage),
            ("total raw data", result.disk),
            ("index and quarantine", result.private),
            ("freed by 'cfs gc'", result.freed),
        ):
            print(f"{label + ':':<22}{amount(size):>12}")
    return 0


def _record(result: Usage, images: list[ImageUsage]) -> dict[str, object]:
    return {
        "images": [
            {
                "names": found.names,
                "image_id": found.image.image_id,
                "manifest_digest": found.image.manifest_digest,
                "files": found.files,
                "apparent": found.apparent,
                "disk": found.disk,
                "unique": found.unique,
                "shared": found.shared,
            }
            for found in images
        ],
        "repository": {
            "objects": result.objects,
            "disk": result.disk,
            "unique": result.unique,
            "shared": result.shared,
            "other": result.other,
            "garbage": result.garbage,
            "freed": result.freed,
            "private": result.private,
        },
    }
