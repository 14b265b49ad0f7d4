"""`cfs umount`: unmount by directory, by image, or everything; also where the server was killed."""

from __future__ import annotations

import os
import pwd
import select

from cfsfuse import mounts, records
from cfsfuse.records import Record
from cfsfuse.unmounting import unmount
from cfsrepo.errors import MountError, NotFoundError, UsageError, printable
from cfsrepo.kernel import mountpins
from cfsrepo.kernel.kernelmount import SOURCE_PREFIX
from cfsrepo.system.mounttable import Mount
from cfstools import context
from cfstools.options import Arguments

# Seconds for a server to end after its mount is gone.
_PATIENCE = 10.0
_ID_PREFIX_MIN = 4


def run(args: Arguments) -> int:
    if bool(args.dir) == args.all:
        raise UsageError("give directories or images, or --all")
    if args.user is not None and not args.all:
        raise UsageError("--user goes with --all")
    servers = {record.mount_point: record for record in records.records()}
    repository = context.repository_path(args)
    if args.all:
        uid = _user_id(args.user)
        targets = [mount for mount in mounts.our_mounts(repository) if mounts.owner(mount) == uid]
    else:
        targets = []
        for word in args.dir:
            targets += [
                mount for mount in _meant(word, servers, repository) if mount not in targets
            ]
    targets.sort(key=lambda mount: mount.mount_id)
    failures = []
    for mount in reversed(targets):  # what was mounted last may lie below what was mounted first
        try:
            _end(mount, servers.get(os.fsdecode(mount.mount_point)), repository, lazy=args.lazy)
        except MountError as error:
            failures.append(error)
    if len(failures) > 1:
        names = "; ".join(str(error) for error in failures)
        raise MountError(names, hint=failures[0].hint)
    if failures:
        raise failures[0]
    return 0


def _user_id(name: str | None) -> int:
    """Whose mounts `--all` means; root only may name others."""
    if name is None:
        return os.geteuid()
    try:
        uid = int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise NotFoundError(f"--user {printable(name)}: no such user") from None
    if uid != os.geteuid() and os.geteuid() != 0:
        raise UsageError("--user: only root ends the mounts of others")
    return uid


def _meant(word: str, servers: dict[str, Record], repository: str) -> list[Mount]:
    """Our mount at the directory `word`, else the caller's mounts of the image `word`."""
    found = mounts.mount_at(word)
    if found is not None and mounts.is_ours(found, repository):
        return [found]
    of_image = [
        mount
        for mount in mounts.our_mounts(repository)
        if mounts.owner(mount) == os.geteuid()
        and _shows(mount, servers.get(os.fsdecode(mount.mount_point)), word)
    ]
    if not of_image:
        raise MountError(
            f"{printable(word)}: neither a mount nor a mounted image of cfs",
            hint="'cfs mounts' lists them",
        )
    return of_image


def _shows(mount: Mount, server: Record | None, image: str) -> bool:
    """Whether a mount is one of the image with this name or id (or beginning of its id)."""
    if os.fsdecode(mount.source).removeprefix(SOURCE_PREFIX) == image:
        return True
    ids = [pin.image_id for pin in mountpins.pins_of(mount)]
    if server is not None and server.image_id is not None:
        ids.append(server.image_id)
    return len(image) >= _ID_PREFIX_MIN and any(known.startswith(image) for known in ids)


def _end(mount: Mount, server: Record | None, repository: str, *, lazy: bool) -> None:
    unmount(mount.mount_point, lazy=lazy or mounts.is_dead(mount))
    if lazy:
        return
    if server is not None:
        _await_end(server.pid)
    elif not mounts.is_fuse(mount):
        mountpins.unpin(mount, repository)


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
