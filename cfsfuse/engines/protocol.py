"""The kernel's FUSE protocol, as far as a read-only file system needs it: bytes <-> values.

A request is a header and a body that depends on its opcode; a reply is a header with the number of
the request and a negative errno or 0, and a body. All in the machine's byte order. Reference:
include/uapi/linux/fuse.h, version 7.31 (Linux 5.4) and later; the kernel names its version first.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 40  # what this module is written after
MINOR_MIN: Final = 31
ROOT_ID: Final = 1


class Opcode(IntEnum):
    """What a request wants. Those that are missing here would write, or are never sent to us."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    TMPFILE = 51


WRITING: Final = frozenset(
    {
        Opcode.SETATTR,
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.LINK,
        Opcode.WRITE,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.CREATE,
        Opcode.FALLOCATE,
        Opcode.RENAME2,
        Opcode.TMPFILE,
    }
)

# length, opcode, unique, nodeid, uid, gid, pid, length of extensions / 8
IN_HEADER: Final = Struct("=IIQQIIIHxx")
# length, error, unique
OUT_HEADER: Final = Struct("=IiQ")

# --- INIT ----------------------------------------------------------------------------------------

# major, minor, max_readahead, flags; then flags2 and unused where FLAG_INIT_EXT is set
INIT_IN: Final = Struct("=IIII")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, map_alignment, flags2, max_stack_depth, unused
INIT_OUT: Final = Struct("=IIIIHHIIHHII24x")

FLAG_ASYNC_READ: Final = 1 << 0  # several reads of a file at once
FLAG_EXPORT_SUPPORT: Final = 1 << 4  # we answer lookups of "." and ".."
FLAG_DO_READDIRPLUS: Final = 1 << 13  # directories with attributes
FLAG_NO_OPEN_SUPPORT: Final = 1 << 17  # ENOSYS to OPEN: no more OPEN nor RELEASE
FLAG_PARALLEL_DIROPS: Final = 1 << 18
FLAG_MAX_PAGES: Final = 1 << 22  # reads larger than 128 KiB
FLAG_CACHE_SYMLINKS: Final = 1 << 23
FLAG_NO_OPENDIR_SUPPORT: Final = 1 << 24  # ENOSYS to OPENDIR: directories are cached as well
FLAG_EXPLICIT_INVAL_DATA: Final = 1 << 25  # page cache is dropped on request only

# The smallest buffer that the kernel lets one read requests with.
READ_BUFFER_MIN: Final = 8192

# --- entries and attributes ----------------------------------------------------------------------

# ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize,
# flags
_ATTR = "QQQqqqIIIIIIIIII"
# attr_valid, attr_valid_nsec, dummy; then the attributes
ATTR_OUT: Final = Struct("=QII" + _ATTR)
# nodeid, generation, entry_valid, attr_valid, their nanoseconds; then the attributes
ENTRY_OUT: Final = Struct("=QQQQII" + _ATTR)
ENTRY_SIZE: Final = ENTRY_OUT.size
# ino, offset of the next, length of the name, type; then the name, padded to 8
DIRENT: Final = Struct("=QQII")
DIRENT_SIZE: Final = DIRENT.size
# Both in a row, as READDIRPLUS has them.
ENTRY_PLUS: Final = Struct("=QQQQII" + _ATTR + "QQII")

# --- the other bodies ----------------------------------------------------------------------------

# fh, offset, size, read_flags, lock_owner, flags, padding: READ, READDIR, READDIRPLUS
READ_IN: Final = Struct("=QQIIQII")
# size, padding; then the name of the attribute: GETXATTR, LISTXATTR
GETXATTR_IN: Final = Struct("=II")
GETXATTR_OUT: Final = Struct("=II")
# mask, padding
ACCESS_IN: Final = Struct("=II")
# blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare
STATFS_OUT: Final = Struct("=QQQQQIII28x")
# fh, open_flags, backing_id
OPEN_OUT: Final = Struct("=QIi")


def error_reply(unique: int, code: int) -> bytes:
    """The reply that a request failed with this (positive) errno."""
    return OUT_HEADER.pack(OUT_HEADER.size, -code, unique)
