"""The record `user.cfs.meta`: what a file of a bare-user tree is in the image, a line of ASCII.

    1 MODE UID GID RDEV MTIME [KEY=VALUE ...]

    1        version of the format
    MODE     octal, with the file type, no leading zero: 104755
    UID GID  decimal, at most 4294967295
    RDEV     decimal, of a character or block device, else 0
    MTIME    seconds, `.`, nanoseconds: `-1.500000000`; the nanoseconds are a count, so `1.5` is
             five nanoseconds after one second
    KEY      name of an extended attribute, VALUE its value, sorted by name (bytewise)

Fields are separated by exactly one space; no newline at the end. Numbers, escapes (KEY and VALUE
escape `=` too), RDEV and MTIME are those of composefs-dump(5), by the same codec
(`cfsrepo.formats.escape`). A record has one spelling only: whatever `encode` would not have written
is refused, so two records say the same if and only if they are the same bytes.

Names `user.cfs.*` cannot be in a record, as they cannot be in an image.

A record is an extended attribute, so the file system limits it. The largest that a file without
other attributes could take, measured on Linux 6.18:

    ext4     4036 bytes with blocks of 4096 (without `ea_inode`, as is its default), 964 with 1024
    btrfs   15716 bytes (nodes of 16384)
    xfs     65536 bytes, the kernel's own limit
    tmpfs   65536 bytes (from Linux 6.6 on; none before)

A file without attributes needs about 40. `cfsrepo.worktree.treewriter` says which file did not fit.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.escape import escape_xattr, unescape
from cfsrepo.formats.tree import Inode, Xattrs, walk

NAME = "user.cfs.meta"
PREFIX = b"user.cfs."
RECORD_MAX = 65536
XATTR_NAME_MAX = 255
XATTR_VALUE_MAX = 65535

_VERSION = b"1"
_HEAD = re.compile(
    rb"([0-7]{1,7}) ([0-9]{1,10}) ([0-9]{1,10}) ([0-9]{1,10}) (-?[0-9]{1,19})\.([0-9]{1,9})"
    rb"(?: (.+))?",
    re.DOTALL,
)
_U32 = 0xFFFFFFFF
_TYPES = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class Meta:
    """What a record says. `mode` has the file type; `rdev` is 0 but for devices."""

    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    mtime_sec: int = 0
    mtime_nsec: int = 0
    xattrs: Xattrs = field(default_factory=dict)

    @classmethod
    def of(cls, inode: Inode) -> Meta:
        """The record of an inode of a tree."""
        return cls(
            inode.mode,
            inode.uid,
            inode.gid,
            inode.rdev if inode.is_device else 0,
            inode.mtime_sec,
            inode.mtime_nsec,
            inode.xattrs or {},
        )

    @property
    def type_name(self) -> str:
        """The file type, for a reader."""
        return _TYPES[stat.S_IFMT(self.mode)]


def encode(meta: Meta) -> bytes:
    """The record of `meta`; LimitError where it is over the kernel's limit."""
    return _encode(meta, meta.rdev)


def encode_inode(inode: Inode) -> bytes:
    """As `encode`, of an inode of a tree."""
    return _encode(inode, inode.rdev if inode.is_device else 0)


def _encode(meta: Meta | Inode, rdev: int) -> bytes:
    record = b"1 %o %d %d %d %d.%d" % (
        meta.mode,
        meta.uid,
        meta.gid,
        rdev,
        meta.mtime_sec,
        meta.mtime_nsec,
    )
    if meta.xattrs:
        words = [
            b"%b=%b" % (escape_xattr(key), escape_xattr(value))
            for key, value in sorted(meta.xattrs.items())
        ]
        record = b" ".join([record, *words])
    if len(record) > RECORD_MAX:
        raise LimitError(f"{NAME}: a record of {len(record)} bytes (at most {RECORD_MAX})")
    return record


def decode(record: bytes) -> Meta:
    """What `record` says. InputError, without the file's name, for a malformed one."""
    version, _, rest = record.partition(b" ")
    if version != _VERSION:
        if re.fullmatch(rb"[1-9][0-9]{0,3}", version):
            raise InputError(
                f"{NAME}: a record of version {version.decode()}", hint="use a newer program"
            )
        raise InputError(f"{NAME}: no record")
    match = _HEAD.fullmatch(rest) if len(record) <= RECORD_MAX else None
    if match is None:
        raise InputError(f"{NAME}: a damaged record")
    mode = int(match[1], 8)
    uid, gid, rdev, sec, nsec = (int(match[number]) for number in range(2, 7))
    if stat.S_IFMT(mode) not in _TYPES or mode >> 16:
        raise InputError(f"{NAME}: mode {mode:o} has no file type")
    if max(uid, gid, rdev) > _U32 or not -(1 << 63) <= sec < 1 << 63:
        raise InputError(f"{NAME}: a number is out of range")
    if rdev and not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        raise InputError(f"{NAME}: a device number in the record of what is not a device")
    meta = Meta(mode, uid, gid, rdev, sec, nsec, _xattrs(match[7]) if match[7] else {})
    if encode(meta) != record:
        raise InputError(f"{NAME}: not in its canonical form")
    return meta


def _xattrs(text: bytes) -> Xattrs:
    xattrs: Xattrs = {}
    for word in text.split(b" "):
        key, equals, value = word.partition(b"=")
        if not equals:
            raise InputError(f"{NAME}: an extended attribute without a value")
        try:
            key, value = unescape(key), unescape(value)
        except ValueError as error:
            raise InputError(f"{NAME}: {error}") from error
        check_xattr(key, value)
        xattrs[key] = value
    return xattrs


def check_xattr(key: bytes, value: bytes) -> None:
    """InputError for an extended attribute that no record can hold."""
    if not 0 < len(key) <= XATTR_NAME_MAX or b"\0" in key:
        raise InputError(f"{NAME}: an extended attribute without a usable name")
    if key.startswith(PREFIX):
        raise InputError(f"{NAME}: an extended attribute {key[:64].decode('ascii', 'replace')}")
    if len(value) > XATTR_VALUE_MAX:
        raise LimitError(f"{NAME}: an extended attribute of {len(value)} bytes")


def drop_reserved_xattrs(root: Inode) -> int:
    """Take the names `user.cfs.*` out of a tree that came from elsewhere; returns how many.

    They are ours: an image with a record in it could forge an owner wherever its files are copied.
    """
    dropped = 0
    for _, inode in walk(root):
        kept = {
            key: value for key, value in (inode.xattrs or {}).items() if not key.startswith(PREFIX)
        }
        if inode.xattrs and len(kept) != len(inode.xattrs):
            dropped += len(inode.xattrs) - len(kept)
            inode.xattrs = kept or None
    return dropped


# -- how a file of the tree looks on disk ---------------------------------------------------------


def disk_mode(mode: int) -> int:
    """Permissions on disk: never setuid, setgid, sticky, nor writable by others; usable by us."""
    return (mode & 0o755) | (0o700 if stat.S_ISDIR(mode) else 0o600)


def is_plain_symlink(inode: Inode) -> bool:
    """Can a real symlink stand for this one? It cannot have a record, and its mode is 0777."""
    return (
        inode.mode == stat.S_IFLNK | 0o777
        and inode.uid == 0
        and inode.gid == 0
        and not inode.xattrs
    )


def check_type(meta: Meta, st_mode: int) -> None:
    """InputError if a file of `st_mode` on disk cannot stand for what the record says it is."""
    on_disk = stat.S_IFDIR if stat.S_ISDIR(meta.mode) else stat.S_IFREG
    if stat.S_IFMT(st_mode) != on_disk:
        what = _TYPES.get(stat.S_IFMT(st_mode), "a file of unknown type")
        raise InputError(f"{NAME} says that this is {meta.type_name}, but it is {what}")


# The span of times that every file system with extended attributes can hold.
_CLAMP_LOW = -(1 << 31)
_CLAMP_HIGH = (1 << 31) - 1


def same_time(meta: Meta, sec: int, nsec: int) -> bool:
    """Is the time on disk still that of the record? So nobody changed the file since.

    Where a file system cannot hold a time, the kernel takes the nearest that it can (ext4: 1901 or
    2446, whole seconds), which no edit of our days gives.
    """
    if (sec, nsec) == (meta.mtime_sec, meta.mtime_nsec):
        return True
    clamped_up = meta.mtime_sec <= sec <= _CLAMP_LOW
    clamped_down = meta.mtime_sec >= sec >= _CLAMP_HIGH
    return nsec == 0 and (clamped_up or clamped_down)
