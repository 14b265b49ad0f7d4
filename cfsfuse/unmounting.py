"""Ending mounts, and making a directory ready to be mounted on."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess

from cfsfuse.connection import helper
from cfsfuse.mounts import canonical, is_dead, is_ours, mount_at
from cfsrepo.errors import MountError, printable
from cfsrepo.system import linux

log = logging.getLogger(__name__)


def unmount(path: str | bytes, *, lazy: bool = False) -> None:
    """End the topmost mount at `path`. `lazy`: detach it now, end it when nothing uses it.

    Raises `MountError`: busy, not mounted, not permitted.
    """
    point = canonical(path)
    shown = printable(point)
    if os.geteuid() == 0:
        try:
            linux.umount(point, linux.MNT_DETACH if lazy else 0)
        except OSError as error:
            raise _unmount_error(shown, error.errno) from error
        return
    command: list[str | bytes] = [helper(), "-u", *(["-z"] if lazy else []), "--", point]
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if result.returncode:
        text = printable(result.stderr.decode(errors="replace").strip().replace("\n", "; "))
        raise _unmount_error(shown, errno.EBUSY if "busy" in text else None, text)


def check_mount_point(path: str | bytes) -> bytes:
    """The canonical form of `path` when it is fit to be mounted on; a dead mount there is cleared.

    Raises `MountError`.
    """
    point = canonical(path)
    shown = printable(point)
    found = mount_at(point)
    while found is not None and is_ours(found):
        if not is_dead(found):
            raise MountError(
                f"{shown}: busy: {printable(found.source)} is mounted there",
                hint="unmount it first: cfs umount",
            )
        log.warning("%s: clearing the mount of a server that was killed", shown)
        unmount(point, lazy=True)
        found = mount_at(point)
    try:
        mode = os.stat(point).st_mode
    except OSError as error:
        raise MountError(f"{shown}: {error.strerror}", hint="give an empty directory") from error
    if not stat.S_ISDIR(mode):
        raise MountError(f"{shown}: not a directory", hint="give an empty directory")
    return point


def _unmount_error(shown: str, code: int | None, text: str = "") -> MountError:
    if code == errno.EBUSY:
        return MountError(
            f"{shown}: busy: files are open below it",
            hint="end the programs that use it, or use --lazy",
        )
    hint = None
    if "not found in /etc/mtab" in text and not os.path.exists("/etc/mtab"):
        hint = "fusermount3 needs /etc/mtab; as root: ln -s ../proc/self/mounts /etc/mtab"
    reason = text or os.strerror(code or errno.EIO)
    return MountError(f"{shown}: cannot be unmounted: {reason}", hint=hint)
