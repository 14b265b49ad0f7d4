"""`cfs mount IMAGE DIR`: mount an image, without root or by the kernel; returns when it answers."""

from __future__ import annotations

import os
import sys

from cfsfuse import daemon, logfile, mounts, unmounting
from cfsfuse.daemon import Ready
from cfsfuse.options import Engine
from cfstools import imagelookup, kernelmounting
from cfstools.mountrequest import MountRequest
from cfstools.options import Arguments

_TIMEOUT = 60.0


def run(args: Arguments) -> int:
    request = MountRequest(args)
    if request.repository is not None:
        args.repo = request.repository
    if request.by_kernel:
        return kernelmounting.run(args, request.for_kernel())
    options = request.for_fuse()
    point = unmounting.check_mount_point(args.dir)
    source = imagelookup.find(args)
    with imagelookup.opened(source):
        pass  # what is no image is said here, before a daemon exists
    log_fd, log_path = (-1, None) if args.foreground else logfile.open_log(args.log)

    def serve(ready: Ready) -> None:
        # Not before the fork: the caller does not need them.
        from cfsfuse import session

        logfile.configure(args.verbose)
        session.serve(source, point, options, log_path=log_path, ready=ready)

    if args.foreground:
        serve(daemon.notify_service_manager)
        return 0
    try:
        daemon.run(serve, log_fd, timeout=_TIMEOUT, undo=lambda: _clear(point))
    finally:
        os.close(log_fd)
    if args.verbose:
        _print_engine(options.engine)
    return 0


def _print_engine(engine: Engine) -> None:
    """What serves the mount, and what it costs where that could be had cheaper."""
    text = f"served by the engine {engine}"
    if engine is Engine.PYFUSE3:
        import pyfuse3
        from cfsfuse.operations import STATELESS

        text = f"served by pyfuse3 {pyfuse3.__version__}"
        if not STATELESS:
            text += ", a stock one: opening a file or listing a directory again asks the server, "
            text += "which takes three to ten times as long (tools/pyfuse3 builds a better one)"
    print(f"cfs: {text}", file=sys.stderr)


def _clear(point: bytes) -> None:
    """Unmount what a server left at `point` that was killed while it started."""
    found = mounts.mount_at(point)
    if found is not None and mounts.is_fuse(found) and mounts.is_dead(found):
        unmounting.unmount(point, lazy=True)
