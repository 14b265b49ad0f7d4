"""`cfs dump IMAGE`: an image as text, as `composefs-info dump` prints it."""

from __future__ import annotations

import argparse
import os
import sys

from cfsrepo.errors import UsageError
from cfsrepo.images.make import dump_image
from cfstools import imagesource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    imagesource.add_arguments(parser)
    parser.add_argument(
        "--filter",
        metavar="NAME",
        action="append",
        help="of what is in the root only NAME; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    names = None if args.filter is None else [os.fsencode(name) for name in args.filter]
    if names and any(b"/" in name for name in names):
        raise UsageError("--filter takes a single name, not a path")
    with imagesource.opened(imagesource.find(args)) as image:
        dump_image(image, sys.stdout.buffer.write, names)
    sys.stdout.buffer.flush()
    return 0
