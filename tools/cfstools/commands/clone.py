"""`cfs clone SRC DST [IMAGE...]`: copy images to another repository, sharing their data."""

from __future__ import annotations

import os

from cfsrepo.errors import UsageError
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.images import names
from cfsrepo.store.objectcopy import Ways
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep.clone import clone
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for

_SHARING = {
    "auto": (True, True),
    "reflink": (True, False),
    "hardlink": (False, True),
    "copy": (False, False),
}


def run(args: Arguments) -> int:
    if os.path.realpath(args.source) == os.path.realpath(args.target):
        raise UsageError(f"{args.target}: is the source itself")
    with Repository.open(args.source) as source:
        images = [names.resolve(source, name) for name in args.images] or None
        with _open_target(args, source) as target:
            result = clone(
                source,
                target,
                images,
                ways=Ways(*_SHARING[args.share]),
                progress=progress_for(args),
            )
    if args.json:
        print_json({"images": result.images, "objects": result.objects, "ways": result.ways})
        return 0
    ways = ", ".join(f"{count} {way}" for way, count in sorted(result.ways.items()))
    print(f"{result.images} images, {result.objects} objects" + (f": {ways}" if ways else ""))
    return 0


def _open_target(args: Arguments, source: Repository) -> Repository:
    if os.path.exists(os.path.join(args.target, "meta.json")):
        return Repository.open(args.target)
    policy = VerityPolicy(args.verity) if args.verity else source.policy
    return Repository.init(args.target, algorithm=source.algorithm, verity=policy)
