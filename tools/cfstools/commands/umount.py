"""`cfs umount DIR`: unmount, also where the server was killed."""

from __future__ import annotations

import os
import select

from cfsfuse import mounts, records
from cfsrepo.errors import MountError, UsageError, printable
from cfsrepo.system.mounttable import Mount
from cfstools import kernelmounting
from cfstools.options import Arguments

# Seconds for a server to end after its mount is gone.
_PATIENCE = 10.0


def run(args: Arguments) -> int:
    if bool(args.dir) == args.all:
        raise UsageError("give directories, or --all")
    if args.all:
        targets = [mount for mount in mounts.our_mounts() if _is_mine(mount)]
        targets.reverse()  # what was mounted last may lie below what was mounted first
    else:
        targets = [_mount_at(path) for path in args.dir]
    failures = []
    for mount in targets:
        try:
            _unmount(mount, lazy=args.lazy)
        except MountError as error:
            failures.append(error)
    if failures:
        if len(failures) > 1:
            names = "; ".join(str(error) for error in failures)
            raise MountError(names, hint=failures[0].hint)
        raise failures[0]
    return 0


def _mount_at(path: str) -> Mount:
    found = mounts.mount_at(path)
    if found is None or not mounts.is_ours(found):
        raise MountError(f"{printable(path)}: not a mount of cfs", hint="'cfs mounts' lists them")
    return found


def _unmount(mount: Mount, *, lazy: bool) -> None:
    point = os.fsdecode(mount.mount_point)
    server = next((record for record in records.records() if record.mount_point == point), None)
    mounts.unmount(mount.mount_point, lazy=lazy or mounts.is_dead(mount))
    if lazy:
        return
    if server is not None:
        _await_end(server.pid)
    elif mount.fstype == "overlay":
        kernelmounting.unpin(mount)


def _await_end(pid: int) -> None:
    """Wait until the server has taken back its pin and its record."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return  # gone already
    try:
        select.select([fd], [], [], _PATIENCE)
    finally:
        os.close(fd)


def _is_mine(mount: Mount) -> bool:
    owners = mount.values(b"user_id")
    return os.geteuid() == 0 or owners == [str(os.getuid()).encode()]
