"""The mounts of this machine that are ours, as the kernel lists them, and ending them.

A mount is ours when its type is `fuse.cfsfuse`, or when it is an overlay whose source is
`composefs:NAME` (a kernel mount by us) or `composefs` (one by mount.composefs). A FUSE mount whose
server was killed is *dead*: it stays in the list and every access to it fails with ENOTCONN until
it is unmounted. That is on purpose: a mount point that silently became an empty directory would
look to a copying or synchronising tool as if all files had been deleted.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import subprocess
import threading

from cfsrepo.errors import MountError, printable
from cfsrepo.system import linux, mounttable
from cfsrepo.system.mounttable import Mount

log = logging.getLogger(__name__)

SUBTYPE = "cfsfuse"
_FSTYPE = f"fuse.{SUBTYPE}"
_KERNEL_SOURCE = b"composefs:"
_PATIENCE = 2.0
_HELPERS = ("fusermount3", "fusermount")


def our_mounts() -> list[Mount]:
    """The mounts that this program made, in the order of the table."""
    return [mount for mount in mounttable.read() if is_ours(mount)]


def is_ours(mount: Mount) -> bool:
    """Whether this program made the mount, served by FUSE or by the kernel."""
    return mount.fstype == _FSTYPE or (
        mount.fstype == "overlay" and (mount.source + b":").startswith(_KERNEL_SOURCE)
    )


def is_dead(mount: Mount) -> bool:
    """Whether the server of a mount is gone.

    statfs(2) is the one call that the kernel never answers from a cache. A server that is alive
    and slow is not waited for: it is not dead.
    """
    if mount.fstype != _FSTYPE:
        return False
    codes: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(mount.mount_point)
        except OSError as error:
            codes.append(error.errno or 0)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return errno.ENOTCONN in codes


def mount_at(path: str | bytes) -> Mount | None:
    """The topmost mount whose mount point is exactly `path`; None where nothing is mounted."""
    point = canonical(path)
    found = None
    for mount in mounttable.read():
        if mount.mount_point == point:
            found = mount
    return found


def canonical(path: str | bytes) -> bytes:
    """`path` as the kernel lists it.

    A mount point itself is never accessed: its server may be dead, stuck, or this very process.
    """
    head, tail = os.path.split(os.path.abspath(os.fsencode(path)))
    if not tail:
        return head
    full = os.path.join(os.path.realpath(head), tail)
    if any(mount.mount_point == full for mount in mounttable.read()):
        return full
    return os.path.realpath(full)


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


def helper() -> str:
    """The set-uid program that mounts for a user; `MountError` where it is not installed."""
    for name in _HELPERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise MountError(
        "fusermount3 is not installed: a user cannot mount without it",
        hint="install the package fuse3",
    )


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
