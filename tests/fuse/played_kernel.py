"""A kernel with fs-verity that is played: tests see what is asked of it on any file system."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import kernelverity


class PlayedKernel:
    """Enables and measures as a kernel with fs-verity does; by inode, so that links are seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.protected: dict[int, bytes] = {}
        self.busy = 0
        monkeypatch.setattr(kernelverity, "enable", self.enable)
        monkeypatch.setattr(kernelverity, "measure", self.measure)
        monkeypatch.setattr(kernelverity.time, "sleep", lambda seconds: None)

    def enable(self, fd: int, algorithm: Algorithm) -> bool:
        if self.busy:
            self.busy -= 1
            raise OSError(errno.ETXTBSY, "busy")
        if not os.fstat(fd).st_mode & stat.S_IWUSR:
            raise OSError(errno.EACCES, "no right to write")
        self.protected[os.fstat(fd).st_ino] = fsverity.digest_fd(fd, algorithm)
        os.utime(fd)  # as ext4 does
        return True

    def measure(self, fd: int, algorithm: Algorithm) -> bytes | None:
        return self.protected.get(os.fstat(fd).st_ino)
