"""File leases, fcntl(2): keeping others from opening a file, and asking whether anybody has it.

A lease needs the owner of the file or CAP_LEASE, and a local file system: overlayfs, NFS and others
refuse it with one of `REFUSED`.
"""

from __future__ import annotations

import errno
import fcntl
import signal
from typing import Final

REFUSED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK}
)
"""The file is another's, or there are no leases here."""


def take_read_lease(fd: int) -> None:
    """F_SETLEASE: a read lease on the file of ours behind the read-only `fd`.

    EAGAIN where somebody has the file open for writing. Whoever opens it for writing or truncates
    it from here on waits until the lease is dropped (or `fs.lease-break-time` seconds); we get
    SIGURG then, which does nothing.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def has_read_lease(fd: int) -> bool:
    """Whether the lease taken on `fd` holds, and nobody waits for its end."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def is_open_elsewhere(fd: int) -> bool | None:
    """Whether anybody has the file open beside the read-only `fd`; None where there is no telling.

    Any open file description counts, of any process in any namespace, this one included: also one
    behind a mapping, a loop device or a mounted image. F_SETLEASE with F_WRLCK is granted only
    where there is none. It is held for a moment: who opens the file meanwhile waits for that.

    A network file system can refuse every such lease as it refuses one for an open file (EAGAIN):
    before True is believed, ask with a file that nobody else can have open.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in REFUSED:
            return None
        raise
    drop_lease(fd)
    return False


def drop_lease(fd: int) -> None:
    """End a lease; one that the kernel has ended already is fine."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
