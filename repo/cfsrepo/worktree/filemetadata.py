"""What metadata a file of a directory has in a tree: its own, or what its record says.

`AsOnDisk` takes it from the file, as composefs's `mkcomposefs DIR` does. `ByRecord` reads a
bare-user tree: a file with a record is what the record says. Its mtime is the record's as long as
the file on disk has it still; else the file was changed, and its time on disk counts. A file
without a record (an editor or a compiler made it) has the metadata of the same path in a base
image, if there is a file of the same type; else it belongs to 0:0 and has its mode on disk. Its
content and mtime are always those on disk. Real symlinks cannot have a record and are such files;
so are devices, FIFOs and sockets.

Rights changed on disk alone (chmod) do not count where there is a record, which is what
`cfs meta set --mode` changes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cfsrepo.errors import InputError
from cfsrepo.formats import metarecord
from cfsrepo.formats.tree import Inode, Xattrs
from cfsrepo.store import hardlink
from cfsrepo.worktree import attributes
from cfsrepo.worktree.below import shown

_PREFIX = metarecord.PREFIX.decode()


@dataclass(slots=True)
class DiskFile:
    """A file as it was found: its path below the root, stat(2), and how to ask for attributes."""

    path: bytes
    info: os.stat_result
    handle: attributes.File
    has_record: bool = False


class Metadata(Protocol):
    """How files become inodes."""

    def inode(self, file: DiskFile, base: Inode | None) -> Inode | None:
        """The inode of a file, without content; None to leave it out. `base`: its path in the
        base image. InputError, OSError."""


class KeptXattrs(StrEnum):
    """Which extended attributes are taken."""

    ALL = "all"
    USER = "user"  # those that begin with `user.`
    NONE = "none"


class AsOnDisk:
    """Files as they are. Records of bare-user trees are no part of them.

    use_epoch: all mtimes are 0. skip_devices: without block and character devices (whiteouts are
    some).
    """

    def __init__(
        self,
        xattrs: KeptXattrs = KeptXattrs.ALL,
        *,
        use_epoch: bool = False,
        skip_devices: bool = False,
    ) -> None:
        self._kept = xattrs
        self._use_epoch = use_epoch
        self._skip_devices = skip_devices

    def inode(self, file: DiskFile, base: Inode | None) -> Inode | None:
        """See `Metadata`."""
        info = file.info
        mode = info.st_mode
        if self._skip_devices and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            return None
        inode = Inode(mode)
        inode.uid, inode.gid = info.st_uid, info.st_gid
        inode.rdev = info.st_rdev & 0xFFFFFFFF
        if not self._use_epoch:
            inode.mtime_sec, inode.mtime_nsec = divmod(info.st_mtime_ns, 1_000_000_000)
        if self._kept is not KeptXattrs.NONE:
            inode.xattrs = attributes.read_all(file.handle, self._wanted)
        return inode

    def _wanted(self, name: str) -> bool:
        if name.startswith(_PREFIX):
            return False
        return self._kept is KeptXattrs.ALL or name.startswith("user.")


class ByRecord:
    """Files as their records say, those of the tree in the directory `root`."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._modes: list[tuple[Inode, os.stat_result]] = []  # where they are not the record's
        self.without_record = 0
        """Files without a record, real symlinks left out."""

    @property
    def chmodded(self) -> int:
        """Files whose permissions on disk are neither those that their record gives them nor those
        that an adopted file gets. Known when all files are."""
        return sum(not hardlink.is_adopted(status, inode.nlink) for inode, status in self._modes)

    def inode(self, file: DiskFile, base: Inode | None) -> Inode:
        """See `Metadata`."""
        kind = stat.S_IFMT(file.info.st_mode)
        record = None
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            record = attributes.read(file.handle)
        if record is not None:
            file.has_record = True
            return self._recorded(file, record)
        self.without_record += kind != stat.S_IFLNK
        return _unrecorded(file.info, base)

    def _recorded(self, file: DiskFile, record: bytes) -> Inode:
        info = file.info
        try:
            meta = metarecord.decode(record)
            metarecord.check_type(meta, info.st_mode)
        except InputError as error:
            raise bad_record(self._root, file.path, str(error), error.hint) from error
        sec, nsec = divmod(info.st_mtime_ns, 1_000_000_000)
        if metarecord.same_time(meta, sec, nsec):
            sec, nsec = meta.mtime_sec, meta.mtime_nsec
        inode = Inode(meta.mode)
        inode.uid, inode.gid, inode.rdev = meta.uid, meta.gid, meta.rdev
        inode.mtime_sec, inode.mtime_nsec = sec, nsec
        inode.xattrs = meta.xattrs or None
        if stat.S_IMODE(info.st_mode) != metarecord.disk_mode(meta.mode):
            self._modes.append((inode, info))
        return inode


def _unrecorded(info: os.stat_result, base: Inode | None) -> Inode:
    mode = info.st_mode
    kind = stat.S_IFMT(mode)
    uid = gid = 0
    xattrs: Xattrs | None = None
    if base is not None and stat.S_IFMT(base.mode) == kind:
        mode, uid, gid = base.mode, base.uid, base.gid
        xattrs = dict(base.xattrs) if base.xattrs else None
    sec, nsec = divmod(info.st_mtime_ns, 1_000_000_000)
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Inode(
        mode,
        uid=uid,
        gid=gid,
        rdev=info.st_rdev & 0xFFFFFFFF if device else 0,
        mtime_sec=sec,
        mtime_nsec=nsec,
        xattrs=xattrs,
    )


def bad_record(root: str, path: bytes, what: str, hint: str | None = None) -> InputError:
    """The error for a file that cannot be what its record says."""
    return InputError(
        f"{shown(root, path)}: {what}", hint=hint or "'cfs meta set' gives it a new record"
    )
