"""Extended attributes of files on disk, the record `user.cfs.meta` among them.

The only module that asks the kernel for them, through the package `xattr`. A file is named by a
descriptor, which costs the kernel least, or by a path, whose last component is not followed where
it is a symlink.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

import xattr

from cfsrepo.errors import InputError, LimitError, SystemFailure
from cfsrepo.formats import metarecord
from cfsrepo.formats.tree import Xattrs
from cfsrepo.worktree.below import shown

File = int | str | bytes

_NONE: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_SUPPORT: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
_TOO_BIG: Final = frozenset({errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.ENAMETOOLONG})


def read(file: File, name: str = metarecord.NAME) -> bytes | None:
    """The value of an attribute; None without it, or where the file system keeps none. OSError."""
    not_followed = not isinstance(file, int)  # the package refuses it for descriptors
    while True:
        try:
            value: bytes = xattr.getxattr(file, name, symlink=not_followed)
        except OSError as error:
            if error.errno in _NONE:
                return None
            if error.errno != errno.ERANGE:  # it grew between the two calls that this takes
                raise
        else:
            return value


def read_all(file: File, wanted: Callable[[str], bool]) -> Xattrs | None:
    """The attributes whose names are `wanted`; None where there are none.

    OSError; EILSEQ for a name that is not UTF-8.
    """
    try:
        names = [
            name
            for name in xattr.listxattr(file, symlink=not isinstance(file, int))
            if wanted(name)
        ]
    except UnicodeDecodeError as error:
        what = "an extended attribute's name is not UTF-8"
        raise OSError(errno.EILSEQ, what) from error
    except OSError as error:
        if error.errno in _NO_SUPPORT:
            return None
        raise
    found = {os.fsencode(name): read(file, name) for name in filter(wanted, names)}
    return {name: value for name, value in found.items() if value is not None} or None


def write(fd: int, value: bytes, root: str, path: bytes = b"", name: str = metarecord.NAME) -> None:
    """Set an attribute of the file behind `fd`, which is `path` below the directory `root`.

    LimitError where it does not fit, SystemFailure where the file system has no attributes, else
    OSError.
    """
    try:
        xattr.setxattr(fd, name, value)
    except OSError as error:
        if error.errno in _NO_SUPPORT:
            raise SystemFailure(
                f"{shown(root, path)}: this file system has no extended attributes for users",
                hint="ext4, xfs, btrfs and (from Linux 6.6) tmpfs have",
            ) from error
        if error.errno in _TOO_BIG and not _disk_is_full(fd):
            raise LimitError(
                f"{shown(root, path)}: {name} of {len(value)} bytes is more than the file system "
                "keeps with a file",
                hint="ext4 keeps about 4000, btrfs 15700, xfs 65536",
            ) from error
        raise


def is_bare_user(path: str) -> bool:
    """Whether the directory `path` has a record, and so what is in it has."""
    try:
        record = read(os.path.join(path, "."))
        return record is not None and stat.S_ISDIR(metarecord.decode(record).mode)
    except (OSError, InputError):
        return False


def _disk_is_full(fd: int) -> bool:
    """Is it the disk that is full, and not the file's place for attributes?"""
    info = os.fstatvfs(fd)
    return info.f_bavail == 0 and info.f_blocks > 0
