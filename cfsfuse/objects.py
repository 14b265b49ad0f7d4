"""Content of files that is in the object directory of a repository."""

from __future__ import annotations

import errno
import os

from cfsfuse.contents import Buffer
from cfsrepo import linux
from cfsrepo.erofs.reader import Backing


class ObjectContent:
    """An object file, read as it is."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, size: int) -> Buffer:
        return os.pread(self._fd, size, offset)

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return None

    def close(self) -> None:
        os.close(self._fd)


class ObjectDirectory:
    """The objects below the directory `path`, opened by the path that an image gives.

    Such a path is not trusted: it can neither leave the directory nor lead through a symlink.
    """

    def __init__(self, path: str | bytes) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, backing: Backing, size: int) -> ObjectContent:
        """The object's content. OSError (EIO) when it is missing or no regular file."""
        try:
            fd = linux.openat2(
                self._fd,
                backing.path,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
                resolve=linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS,
            )
        except OSError as error:
            raise OSError(errno.EIO, f"object cannot be opened: {error.strerror}") from error
        return ObjectContent(fd)

    def close(self) -> None:
        """Release the directory."""
        os.close(self._fd)
