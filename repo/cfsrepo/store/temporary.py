"""Files of a repository that are on their way: without a name, or under a temporary one, until they
are complete; and the directories they go to."""

from __future__ import annotations

import os
from typing import Final

from cfsrepo.formats.fsverity import Buffer

TEMPORARY_PREFIX: Final = ".tmp-"
DIR_MODE: Final = 0o755


class Draft:
    """A file that is being written: nameless, or under a temporary name in the directory."""

    __slots__ = ("dir_fd", "fd", "name")

    def __init__(self, fd: int, dir_fd: int, name: str | None) -> None:
        self.fd = fd
        self.dir_fd = dir_fd
        self.name = name

    def discard(self) -> None:
        """Close it, and drop the temporary name if it still has that. May be called twice."""
        fd, self.fd = self.fd, -1
        name, self.name = self.name, None
        if fd >= 0:
            os.close(fd)
        if name is not None:
            os.unlink(name, dir_fd=self.dir_fd)


def temporary_name() -> str:
    """A new name for a file that is being written; a collection removes what a crash left."""
    return TEMPORARY_PREFIX + os.urandom(8).hex()


def make_directory(path: str, dir_fd: int | None = None) -> None:
    """mkdir with mode 0755 whatever the umask; an existing directory is fine."""
    try:
        os.mkdir(path, DIR_MODE, dir_fd=dir_fd)
    except FileExistsError:
        return
    if umask() & DIR_MODE:
        os.chmod(path, DIR_MODE, dir_fd=dir_fd)


def umask() -> int:
    """The process's umask, which stays as it is."""
    # os.umask would have to change it to tell, for all threads.
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022


def write_all(fd: int, data: Buffer) -> None:
    """Write all of `data`."""
    written = os.write(fd, data)
    if written != len(data):
        with memoryview(data) as view:
            while written < len(view):
                written += os.write(fd, view[written:])
