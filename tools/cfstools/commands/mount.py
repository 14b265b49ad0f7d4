"""`cfs mount IMAGE DIR`: mount an image, without root or by the kernel; returns when it answers."""

from __future__ import annotations

import os
from dataclasses import replace

from cfsfuse import daemon, logfile, mounts
from cfsfuse import options as mount_options
from cfsfuse.daemon import Ready
from cfsfuse.options import MountOptions
from cfstools import imagelookup, kernelmounting, kernelrequest
from cfstools.options import Arguments

_TIMEOUT = 60.0


def run(args: Arguments) -> int:
    if kernelrequest.wanted(args):
        return kernelmounting.run(args)
    options = _options(args)
    if options.repository is not None:
        args.repo = options.repository
    point = mounts.check_mount_point(args.dir)
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
        daemon.run(serve, log_fd, timeout=_TIMEOUT)
    finally:
        os.close(log_fd)
    return 0


def _options(args: Arguments) -> MountOptions:
    """The choices of the command line; flags win over `-o`."""
    options = mount_options.parse(args.options)
    flags = [
        f"{key}={value}"
        for key in ("verify", "engine", "uid", "gid")
        if (value := getattr(args, key)) is not None
    ]
    if args.idmap is not None:
        flags.append("idmap=" + args.idmap.replace(",", "\\,"))
    if args.enforce_permissions:
        flags.append("enforce_permissions")
    options = mount_options.parse(flags, options)
    if args.subdir is not None:
        options = replace(options, subdir=os.fsencode(args.subdir))
    return options
