"""`cfs mount IMAGE DIR`: mount an image, without root or by the kernel; returns when it answers."""

from __future__ import annotations

import argparse
import os

from cfsfuse import daemon, mounts
from cfsfuse.daemon import Ready
from cfstools import imagesource, kernelmounting

_TIMEOUT = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    imagesource.add_arguments(parser)
    parser.add_argument("dir", metavar="DIR", help="an empty directory of yours to mount on")
    parser.add_argument(
        "--foreground", action="store_true", help="serve in this process, log to stderr"
    )
    parser.add_argument(
        "--enforce-permissions",
        action="store_true",
        help="let the kernel check owner and mode, instead of showing everything to you",
    )
    kernelmounting.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    point = mounts.check_mount_point(args.dir)
    by_kernel = kernelmounting.wanted(args)
    source = imagesource.find(args)
    if by_kernel:
        return kernelmounting.run(args, point, source)
    with imagesource.opened(source):
        pass  # a damaged image is said here, before a daemon exists

    def serve(ready: Ready) -> None:
        # Not before the fork: these start no thread but are large, and the caller needs them not.
        from cfsfuse import session
        from cfsfuse.objects import ObjectDirectory
        from cfsfuse.view import ImageView

        with imagesource.opened(source) as image:
            session.serve(
                ImageView(image, ObjectDirectory(source.object_dir)),
                point,
                source=source.name,
                enforce_permissions=args.enforce_permissions,
                ready=ready,
            )

    if args.foreground:
        serve(lambda: None)
        return 0
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        daemon.run(serve, null, timeout=_TIMEOUT)
    finally:
        os.close(null)
    return 0
