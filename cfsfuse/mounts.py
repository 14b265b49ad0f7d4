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
import subprocess

from cfsrepo import linux, mounttable
from cfsrepo.errors import MountError, printable
from cfsrepo.mounttable import Mount

log = logging.getLogger(__name__)

SUBTYPE = "cfsfuse"
_FSTYPE = f"fuse.{SUBTYPE}"
_HELPERS = ("fusermount3", "fusermount")


def our_mounts() -> list[Mount]:
    """The mounts that this program made, in the order of the table."""
    return [mount for mount in mounttable.read() if is_ours(mount)]


def is_ours(mount: Mount) -> bool:
    """Whether this program made the mount."""
    if mount.fstype == "overlay":
        return mount.source == b"composefs" or mount.source.startswith(b"composefs:")
    return mount.fstype == _FSTYPE


def is_dead(mount: Mount) -> bool:
    """Whether the server of a mount is gone.

    Asks for attributes of the root, which the kernel has from the first time on: a live server is
    not waited for, however slow it is.
    """
    try:
        os.stat(mount.mount_point)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def mount_at(path: str | bytes) -> Mount | None:
    """The topmost mount whose mount point is exactly `path`; None where nothing is mounted."""
    point = canonical(path)
    found = None
    for mount in mounttable.read():
        if mount.mount_point == point:
            found = mount
    return found


def canonical(path: str | bytes) -> bytes:
    """`path` as the kernel lists it. The last component is not accessed: it may be a dead mount."""
    head, tail = os.path.split(os.path.abspath(os.fsencode(path)))
    if not tail:
        return head
    full = os.path.join(os.path.realpath(head), tail)
    if os.path.islink(full):
        return os.path.realpath(full)
    return full


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
    try:
        if not os.path.isdir(point):
            os.stat(point)
            raise MountError(f"{shown}: not a directory", hint="give an empty directory")
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise MountError(f"{shown}: {error.strerror}") from error
        found = mount_at(point)
        if found is None or not is_ours(found):
            raise MountError(f"{shown}: a dead mount that is not ours") from error
        log.warning("%s: clearing the mount of a server that was killed", shown)
        unmount(point, lazy=True)
        return check_mount_point(point)
    found = mount_at(point)
    if found is not None and is_ours(found):
        raise MountError(
            f"{shown}: busy: {printable(found.source)} is mounted there",
            hint="unmount it first: cfs umount",
        )
    return point


def _unmount_error(shown: str, code: int | None, text: str = "") -> MountError:
    if code == errno.EBUSY:
        return MountError(
            f"{shown}: busy: files are open below it",
            hint="end the programs that use it, or use --lazy",
        )
    return MountError(f"{shown}: cannot be unmounted: {text or os.strerror(code or errno.EIO)}")
