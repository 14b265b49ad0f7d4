"""`cfs init`: make a new repository."""

from __future__ import annotations

import argparse

from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.store.repository import Repository
from cfstools.context import repository_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--algorithm",
        choices=[str(algorithm) for algorithm in Algorithm],
        default=str(Algorithm.SHA256),
        help="digest of all objects (default: %(default)s, the one that the C tools know)",
    )
    parser.add_argument(
        "--verity",
        choices=[str(policy) for policy in VerityPolicy],
        default=str(VerityPolicy.TRY),
        help="have the kernel protect every object by fs-verity: fail without, "
        "where the file system has it, or never (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    path = repository_path(args)
    with Repository.init(
        path, algorithm=Algorithm(args.algorithm), verity=VerityPolicy(args.verity)
    ) as repository:
        print(repository.path)
    return 0
