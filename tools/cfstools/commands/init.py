"""`cfs init`: make a new repository."""

from __future__ import annotations

from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.store.repository import Repository
from cfstools.context import repository_path
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json


def run(args: Arguments) -> int:
    path = repository_path(args)
    with Repository.init(
        path, algorithm=Algorithm(args.algorithm), verity=VerityPolicy(args.verity)
    ) as repository:
        path = repository.path
    if args.json:
        print_json({"repository": path})
    else:
        print(path)
    return 0
