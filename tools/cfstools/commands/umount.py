"""`cfs umount DIR`: unmount, also where the server was killed."""

from __future__ import annotations

import argparse

from cfsfuse import mounts
from cfsrepo.errors import MountError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="where it is mounted")
    parser.add_argument(
        "--lazy", action="store_true", help="detach now, end when nothing uses it any more"
    )


def run(args: argparse.Namespace) -> int:
    found = mounts.mount_at(args.dir)
    if found is None or not mounts.is_ours(found):
        raise MountError(
            f"{printable(args.dir)}: not a mount of cfs", hint="'cfs mounts' lists them"
        )
    mounts.unmount(found.mount_point, lazy=args.lazy or mounts.is_dead(found))
    return 0
