"""Kernel fs-verity on files of a repository: enabling it, and what to say where there is none."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Final

from cfsrepo.errors import VerityError
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm
from cfsrepo.system import linux

_PROTECTED_MODE: Final = 0o644
# A process forked meanwhile holds our writable descriptor until it calls exec.
_BUSY_WAITS: Final = (0.001, 0.005, 0.02, 0.1, 0.4, 1.0)


def enable(fd: int, algorithm: Algorithm) -> bool:
    """Make the kernel check every read of the file behind the read-only `fd` from here on.

    True also where it did so already; False where file system or kernel have no fs-verity.
    """
    try:
        linux.enable_verity(fd, algorithm.kernel_id, BLOCK_SIZE)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return True
        if error.errno in linux.VERITY_UNSUPPORTED:
            return False
        raise
    return True


def measure(fd: int, algorithm: Algorithm) -> bytes | None:
    """The kernel's digest of the file behind `fd`; None where it has none of this algorithm."""
    measured = linux.measure_verity(fd)
    if measured is None or measured[0] != algorithm.kernel_id:
        return None
    return measured[1]


def enable_when_idle(fd: int, algorithm: Algorithm) -> bool:
    """`enable`, waiting a little while somebody has the file open for writing.

    An adopted file (`cfsrepo.store.hardlink`) keeps its mtime, which ext4 would change. Its
    mode becomes an object's usual one: the kernel asks for the right to write, and then refuses
    writes itself.
    """
    status = os.fstat(fd)
    enabled = _enable(fd, algorithm)
    if status.st_nlink > 1 and os.fstat(fd).st_mtime_ns != status.st_mtime_ns:
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    return enabled


def _enable(fd: int, algorithm: Algorithm) -> bool:
    for pause in _BUSY_WAITS:
        try:
            return enable(fd, algorithm)
        except OSError as error:
            if error.errno == errno.EACCES and not os.fstat(fd).st_mode & stat.S_IWUSR:
                os.fchmod(fd, _PROTECTED_MODE)
            elif error.errno == errno.ETXTBSY:
                time.sleep(pause)
            else:
                raise
    return enable(fd, algorithm)


def unsupported(path: str) -> VerityError:
    """The error for a file system without fs-verity, with what its administrator can do."""
    from cfsrepo.system import mounttable

    mount = mounttable.mount_of(path)
    fstype = "the file system" if mount is None else mount.fstype
    if mount is not None and fstype == "ext4":
        device = os.fsdecode(mount.source)
        hint = f"as root, with the file system unmounted: tune2fs -O verity {device}"
    elif fstype == "f2fs":
        hint = "f2fs has it only when made with: mkfs.f2fs -O verity"
    elif fstype == "btrfs":
        hint = "btrfs has it from Linux 5.15 on, if the kernel was built with CONFIG_FS_VERITY"
    else:
        hint = "put the repository on ext4, btrfs or f2fs, or use --verity=try"
    return VerityError(f"{path}: {fstype} has no fs-verity here", hint=hint)
