"""`cfs dump IMAGE`: an image as text, as `composefs-info dump` prints it."""

from __future__ import annotations

import os
import sys

from cfsrepo.errors import UsageError
from cfsrepo.images.dump import dump_image
from cfstools import imagelookup
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    names = [os.fsencode(name) for name in args.filter] or None
    if names and any(b"/" in name for name in names):
        raise UsageError("--filter takes a single name, not a path")
    with imagelookup.opened(imagelookup.find(args)) as image:
        dump_image(image, sys.stdout.buffer.write, names)
    sys.stdout.buffer.flush()
    return 0
