"""`cfs untag NAME`: remove a name; `cfs gc` then frees what nothing else names."""

from __future__ import annotations

import argparse

from cfstools.context import open_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="whole names, as 'cfs images' has them"
    )


def run(args: argparse.Namespace) -> int:
    with open_repository(args) as repository:
        for name in args.names:
            if name not in repository.tags() and name in repository.image_refs():
                repository.unname_image(name)
            else:
                repository.untag(name)
    return 0
