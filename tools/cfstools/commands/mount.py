"""`cfs mount IMAGE DIR`: mount an image, without root or by the kernel; returns when it answers."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from cfsfuse import daemon, logfile, mounts
from cfsfuse import options as mount_options
from cfsfuse.daemon import Ready
from cfsfuse.options import Engine, MountOptions
from cfsrepo.images.verified import Verify
from cfstools import imagesource, kernelmounting, kernelrequest

_TIMEOUT = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    imagesource.add_arguments(parser)
    parser.add_argument("dir", metavar="DIR", help="an empty directory of yours to mount on")
    parser.add_argument(
        "--foreground", action="store_true", help="serve in this process, log to stderr"
    )
    parser.add_argument(
        "--verify",
        choices=[str(choice) for choice in Verify],
        help="who checks each object's digest: the kernel where it can, else cfs (auto, the "
        "default); always cfs; or nobody",
    )
    parser.add_argument(
        "--enforce-permissions",
        action="store_true",
        help="let the kernel check owner and mode, instead of showing everything to you",
    )
    parser.add_argument("--uid", metavar="N", help="show everything as owned by this user id")
    parser.add_argument("--gid", metavar="N", help="show everything as owned by this group id")
    parser.add_argument(
        "--idmap",
        metavar="[u:|g:]IMAGE:MOUNT:COUNT,...",
        help="show ids from IMAGE on as ids from MOUNT on, others as 65534; a kernel mount also "
        "takes a user namespace, as a process id or /proc/PID/ns/user",
    )
    parser.add_argument("--subdir", metavar="PATH", help="this directory of the image is the root")
    parser.add_argument(
        "--engine",
        choices=[str(choice) for choice in Engine],
        help="which FUSE server: direct (the default; needs no open requests) or pyfuse3",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="log of the server (default: /var/log/cfsfuse.log for root, else "
        "cfsfuse/cfsfuse.log in $XDG_STATE_HOME)",
    )
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTION,...",
        action="append",
        default=[],
        help="options as in fstab: allow_other, allow_root, suid, dev, noexec, and those above as "
        "verify=, uid=, gid=, idmap=, subdir=, engine=, repo=, enforce_permissions; of a kernel "
        "mount nosuid, nodev, noexec, rw, memory, verity, noverity, digest=, upperdir=, workdir=, "
        "helper=",
    )
    kernelrequest.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if kernelrequest.wanted(args):
        return kernelmounting.run(args)
    options = _options(args)
    if options.repository is not None:
        args.repo = options.repository
    point = mounts.check_mount_point(args.dir)
    source = imagesource.find(args)
    with imagesource.opened(source):
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


def _options(args: argparse.Namespace) -> MountOptions:
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
