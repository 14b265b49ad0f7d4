"""Records of files on disk: read, changed, checked. For single files by hand; trees are written by
`cfsrepo.worktree.treewriter`."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from cfsrepo.errors import InputError, LimitError, UsageError, printable
from cfsrepo.formats import metarecord
from cfsrepo.formats.metarecord import Meta
from cfsrepo.formats.tree import Inode
from cfsrepo.store import hardlink
from cfsrepo.worktree import attributes
from cfsrepo.worktree.filemetadata import DiskFile
from cfsrepo.worktree.scan import Scanner

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change of a record; None is left as it is."""

    mode: int | None = None
    """Permission bits (07777)."""
    kind: int | None = None
    """S_IF*: what the file stands for."""
    uid: int | None = None
    gid: int | None = None
    rdev: int | None = None
    mtime: tuple[int, int] | None = None
    """Seconds and nanoseconds; the file on disk gets this time as well."""
    xattrs: dict[bytes, bytes | None] = field(default_factory=dict)
    """Extended attributes to set; None removes one."""


def read_record(path: str | bytes | int) -> Meta | None:
    """The record of a file, by path (a symlink is not followed) or descriptor; None without one.

    InputError, naming the file, for one that is damaged or contradicts the file.
    """
    record = attributes.read(path)
    if record is None:
        return None
    info = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    try:
        found = metarecord.decode(record)
        metarecord.check_type(found, info.st_mode)
    except InputError as error:
        if isinstance(path, int):
            raise
        raise InputError(f"{printable(path)}: {error}", hint=error.hint) from error
    return found


def change_record(path: str, changes: Changes) -> Meta:
    """Change the record of the file or directory `path`, or give it one: 0:0, as it is on disk.

    A damaged record is replaced. An edit of the file since its record was written counts: the new
    record has the later time. Rights on disk become those that belong to the new record,
    but for an adopted file, which stays closed to writers.
    UsageError for changes that no file, or not this one, can have.
    """
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"{path}: a symbolic link has no record",
                hint="replace it by a file with the target as its content, then --type=symlink",
            ) from error
        raise
    try:
        info = os.fstat(fd)
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
            raise UsageError(f"{path}: neither a regular file nor a directory")
        sec, nsec = divmod(info.st_mtime_ns, 1_000_000_000)
        try:
            old = read_record(fd)
        except InputError:
            old = None
        if old is None:
            old = Meta(info.st_mode, mtime_sec=sec, mtime_nsec=nsec)
        elif not metarecord.same_time(old, sec, nsec):
            old = replace(old, mtime_sec=sec, mtime_nsec=nsec)
        new = _changed(old, changes, path)
        record = _record_for(new, info, path)
        closed = not info.st_mode & stat.S_IWUSR
        if closed:  # the kernel asks for the right to write before it sets an attribute
            os.fchmod(fd, stat.S_IMODE(info.st_mode) | stat.S_IWUSR)
        try:
            attributes.write(fd, record, path)
        finally:
            if closed:
                os.fchmod(fd, stat.S_IMODE(info.st_mode))
        mode = metarecord.disk_mode(new.mode)
        adopted = closed and hardlink.is_adopted(info, 1)
        if stat.S_IMODE(info.st_mode) != mode and not adopted:
            os.fchmod(fd, mode)
        if changes.mtime is not None:
            time = new.mtime_sec * 1_000_000_000 + new.mtime_nsec
            os.utime(fd, ns=(time, time))
        return new
    finally:
        os.close(fd)


def _record_for(meta: Meta, info: os.stat_result, path: str) -> bytes:
    """The bytes of the record `meta`, if the file `info` can have it; UsageError if not."""
    try:
        metarecord.check_type(meta, info.st_mode)
        record = metarecord.encode(meta)
        metarecord.decode(record)
    except LimitError:
        raise
    except InputError as error:
        raise UsageError(f"{path}: {error}") from error
    if info.st_size and not (
        stat.S_ISREG(meta.mode) or stat.S_ISLNK(meta.mode) or stat.S_ISDIR(meta.mode)
    ):
        raise UsageError(f"{path}: what stands for {meta.type_name} must be empty")
    return record


def _changed(old: Meta, changes: Changes, path: str) -> Meta:
    mode = old.mode
    if changes.mode is not None:
        mode = stat.S_IFMT(mode) | changes.mode
    if changes.kind is not None:
        mode = changes.kind | stat.S_IMODE(mode)
    device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    if changes.rdev is not None and not device:
        raise UsageError(f"{path}: only devices have a device number", hint="--type=char or block")
    rdev = old.rdev if changes.rdev is None else changes.rdev
    xattrs = dict(old.xattrs)
    for key, value in changes.xattrs.items():
        if value is None:
            if key not in xattrs:
                raise UsageError(f"{path}: the record has no attribute {printable(key)}")
            del xattrs[key]
        else:
            xattrs[key] = value
    sec, nsec = changes.mtime or (old.mtime_sec, old.mtime_nsec)
    return Meta(
        mode,
        old.uid if changes.uid is None else changes.uid,
        old.gid if changes.gid is None else changes.gid,
        rdev if device else 0,
        sec,
        nsec,
        xattrs,
    )


def check_records(path: str) -> Iterator[tuple[bytes, str]]:
    """What is wrong in the tree below the directory `path`: (path of a file, what), parents first.

    Damaged records, records that contradict their file, permissions that are not those of the
    record, placeholders with content. Files without a record are in order, and adopted ones.
    """
    checks = _Checks()
    with Scanner(path, checks) as scanner:
        root = scanner.root()
        pending: deque[tuple[bytes, Inode, Inode | None]] = deque([(b"", root, None)])
        while pending or checks.found:
            for found, what in sorted(checks.found):
                yield os.path.join(os.fsencode(path), found) if found else os.fsencode(path), what
            checks.found.clear()
            if pending:
                pending.extend(scanner.read_directory(*pending.popleft()))
    for found, what, inode, info in checks.odd:
        if not hardlink.is_adopted(info, inode.nlink):
            yield os.path.join(os.fsencode(path), found), what


class _Checks:
    """Metadata as `cfsrepo.worktree.scan` asks for it, with what is wrong about the records."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, str]] = []
        # Files with several names and odd rights; an adopted one has more names than the tree.
        self.odd: list[tuple[bytes, str, Inode, os.stat_result]] = []

    def inode(self, file: DiskFile, base: Inode | None) -> Inode:
        """See `filemetadata.Metadata`."""
        inode = Inode(file.info.st_mode)
        kind = stat.S_IFMT(file.info.st_mode)
        record = attributes.read(file.handle) if kind in (stat.S_IFREG, stat.S_IFDIR) else None
        if record is not None:
            self._check(file, inode, record)
        return inode

    def _check(self, file: DiskFile, inode: Inode, record: bytes) -> None:
        path, info = file.path, file.info
        try:
            meta = metarecord.decode(record)
            metarecord.check_type(meta, info.st_mode)
        except InputError as error:
            self.found.append((path, str(error)))
            return
        if stat.S_IMODE(info.st_mode) != metarecord.disk_mode(meta.mode):
            what = (
                f"mode {stat.S_IMODE(info.st_mode):04o} on disk is not that of the record "
                f"({metarecord.disk_mode(meta.mode):04o} for {stat.S_IMODE(meta.mode):04o}); "
                "the record counts"
            )
            if hardlink.is_adopted(info, 1):
                self.odd.append((path, what, inode, info))
            else:
                self.found.append((path, what))
        kind = stat.S_IFMT(meta.mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) and info.st_size:
            self.found.append((path, f"stands for {meta.type_name}, but is not empty"))
        if kind == stat.S_IFLNK and not info.st_size:
            self.found.append((path, "stands for a symbolic link, but has no target"))
