"""The mounts of this machine that are ours, as the kernel lists them.

A mount is ours when its type is `fuse.cfsfuse`, or when it is a composefs mount of the kernel that
a pin in its repository stands for (`cfsrepo.kernel.mountpins`). A source called `composefs` proves
nothing: the root of a whole system may have it. The root directory is never ours.

A FUSE mount whose server was killed is *dead*: it stays in the list and every access to it fails
with ENOTCONN until it is unmounted. That is on purpose: a mount point that silently became an empty
directory would look to a copying or synchronising tool as if all files had been deleted.
"""

from __future__ import annotations

import errno
import os
import threading

from cfsrepo.kernel import mountpins
from cfsrepo.system import mounttable
from cfsrepo.system.mounttable import Mount

SUBTYPE = "cfsfuse"
_FSTYPE = f"fuse.{SUBTYPE}"
_PATIENCE = 2.0


def our_mounts(repository: str | None = None) -> list[Mount]:
    """The mounts that this program made, in the order of the table; see `is_ours`."""
    return [mount for mount in mounttable.read() if is_ours(mount, repository)]


def is_ours(mount: Mount, repository: str | None = None) -> bool:
    """Whether this program made the mount, served by FUSE or by the kernel.

    `repository`: where to look for the pin of a kernel mount that does not name its repository.
    """
    if mount.mount_point == b"/":
        return False
    return is_fuse(mount) or bool(mountpins.pins_of(mount, repository))


def is_fuse(mount: Mount) -> bool:
    """Whether the mount is one by FUSE of this program."""
    return mount.fstype == _FSTYPE


def owner(mount: Mount) -> int:
    """The user id of who made one of our mounts; only root makes kernel mounts."""
    if not is_fuse(mount):
        return 0
    return int(next(iter(mount.values(b"user_id")), b"0"))


def is_dead(mount: Mount) -> bool:
    """Whether the server of a mount is gone.

    statfs(2) is the one call that the kernel never answers from a cache. A server that is alive
    and slow is not waited for: it is not dead.
    """
    if not is_fuse(mount):
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
