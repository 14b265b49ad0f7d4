"""A user's own file on its way to being an object, which must never change again.

The store hard links it instead of copying it (`ObjectStore.adopt`). A file is taken only

- if it is a regular file of ours: nobody else can open it for writing later, or give that right;
- if nobody has it open for writing. A read lease, fcntl(2), says so, and keeps everybody from
  opening it so while it is hashed and linked: who tries waits, and then it is not taken;
- if it has no other name than those the caller knows of: through one, an edit would go unseen;
- if its size, times and inode are still what they were before it was read.

What is hashed is the descriptor that is linked. From then on the kernel refuses every write where
the file has fs-verity; elsewhere its mode is 0444, so that an edit in place fails, though not for
root. Its extended attributes stay: fs-verity does not measure them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from cfsrepo.errors import VerityError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store.temporary import temporary_name
from cfsrepo.system import leases, linux
from cfsrepo.system.closing import Closing

GUARDED_MODE: Final = 0o644
"""Of an adopted file that the kernel keeps from being written: as of any object."""
UNGUARDED_MODE: Final = 0o444
"""Of one that only its rights protect."""
# Why a file cannot be linked, though it can be copied: fs.protected_hardlinks or an attribute
# forbids it, too many links, no links in this file system, no name any more.
_LINK_REFUSED: Final = frozenset({errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT})
# Somebody writes, or no lease is to be had.
_NO_LEASE: Final = leases.REFUSED | {errno.EAGAIN}
_WHOLE: Final = 1 << 20  # bytes of a file that is hashed in one piece


class Held(Closing):
    """The file behind a descriptor, kept from being written while it is held; a context manager."""

    def __init__(self, fd: int, before: os.stat_result) -> None:
        self.fd = fd
        self._before = before

    @property
    def size(self) -> int:
        """Bytes in it."""
        return self._before.st_size

    @property
    def names(self) -> int:
        """How many names it had."""
        return self._before.st_nlink

    def digest(self, algorithm: Algorithm) -> bytes:
        """The digest of its content, read through the descriptor, whose offset stays."""
        if self.size <= _WHOLE:
            data = os.pread(self.fd, self.size + 1, 0)
            if len(data) == self.size:
                return fsverity.digest(data, algorithm)
        return fsverity.digest_fd(self.fd, algorithm)

    def install(self, dir_fd: int, path: str, enable: Callable[[int], bool]) -> bool:
        """Make it the object `path` below `dir_fd`; False where it cannot be.

        Then it is as it was, but for fs-verity, which nothing takes off again.
        `enable` enables fs-verity on it, if that is wanted, and says whether it has it. OSError
        EXDEV: nothing of this file system, or mount, can become an object there.
        """
        if not self._untouched():
            return False
        name = temporary_name()
        try:
            linux.link_fd(self.fd, dir_fd, name)
        except OSError as error:
            if error.errno in _LINK_REFUSED:
                return False
            raise
        done = False
        try:
            if not self._unwritten():
                return False
            os.fchmod(self.fd, GUARDED_MODE if enable(self.fd) else UNGUARDED_MODE)
            if self._unwritten():
                os.rename(name, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                done = True
        except (VerityError, OSError) as error:
            # A copy can be protected, or says why not.
            if isinstance(error, OSError) and error.errno != errno.ETXTBSY:
                raise
        finally:
            if not done:
                os.fchmod(self.fd, stat.S_IMODE(self._before.st_mode))
            # Renaming one name of a file over another name of it does nothing, and leaves both.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=dir_fd)
        return done

    def _untouched(self) -> bool:
        """Whether all is as it was when the lease was taken."""
        now = os.fstat(self.fd)
        return (
            (now.st_ctime_ns, now.st_nlink) == (self._before.st_ctime_ns, self.names)
        ) and self._unwritten()

    def _unwritten(self) -> bool:
        """Whether its content is as it was; the ctime is new as soon as it is linked."""
        now, before = os.fstat(self.fd), self._before
        return (
            (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
            and (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev)
            and leases.has_read_lease(self.fd)
        )

    def close(self) -> None:
        """Let others write to it again."""
        leases.drop_lease(self.fd)


def hold(fd: int) -> Held | None:
    """Take the file behind `fd`, open for reading only; None for one that is not to be taken."""
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode) or before.st_uid != os.geteuid():
        return None
    try:
        leases.take_read_lease(fd)
    except OSError as error:
        if error.errno in _NO_LEASE:
            return None
        raise
    # What was written before the lease was taken is in what is compared.
    return Held(fd, os.fstat(fd))


def is_adopted(status: os.stat_result, names: int) -> bool:
    """Whether a file of a tree, which has `names` names in it, looks like one that was adopted."""
    mode = stat.S_IMODE(status.st_mode)
    linked = stat.S_ISREG(status.st_mode) and status.st_nlink > names
    return linked and mode in (GUARDED_MODE, UNGUARDED_MODE)
