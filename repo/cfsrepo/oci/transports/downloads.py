"""What was received of blobs so far: kept in a repository until the layer is stored, also when the
program is killed, so that the next pull goes on from there.

    cfsfuse/downloads/DIGEST          the blob's first bytes; who receives it holds its lock (flock)
    cfsfuse/downloads/DIGEST.sums     for each piece of it 12 bytes: length u32, XXH3 u64 (both LE)
    cfsfuse/downloads/DIGEST.layer    one line: boot id, diff id, digest of the layer's stream

A piece is written before its sum: what is not covered by sums is cut off when it is read again, as
is everything from the first piece on that differs from its sum. The sums find damage by disks and
crashes; whether a registry lied, only the blob's digest tells, and then all of it is discarded.

A `.layer` says that the blob is an object by now, which nothing refers to yet. It counts only until
the machine starts again: objects are written to disk when an image becomes visible, not before.

A collection (`cfsrepo.upkeep.gc`) removes all of it. `trim` keeps the amount bounded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

import xxhash

from cfsrepo.system.closing import Closing

DOWNLOADS: Final = "downloads"
"""The directory below the repository's own one."""
TOTAL_MAX: Final = 32 << 30  # bytes of unfinished downloads

_SUM = struct.Struct("<IQ")
_PIECE_MAX: Final = 1 << 20
_NOTE_MAX: Final = 1024
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Partial(Closing):
    """The first bytes of one blob, locked by this process. A context manager."""

    def __init__(self, directory: str, digest: str, waiting: Callable[[str], object]) -> None:
        """Waits while another process receives the same blob, and tells `waiting` so."""
        self.size = 0
        """Bytes that were read again or appended."""
        self._path = os.path.join(directory, digest)
        self._fd = _open_locked(self._path, digest, waiting)
        try:
            self._sums = os.open(f"{self._path}.sums", _FLAGS, 0o644)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock back."""
        for name in ("_sums", "_fd"):
            if (fd := getattr(self, name, -1)) >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def pieces(self) -> Iterator[bytes]:
        """What is there, from the start, as far as it is sound. The rest is cut off."""
        end = 0  # of the sums
        while len(record := os.pread(self._sums, _SUM.size, end)) == _SUM.size:
            length, wanted = _SUM.unpack(record)
            data = os.pread(self._fd, min(length, _PIECE_MAX), self.size)
            if not data or len(data) != length or xxhash.xxh3_64_intdigest(data) != wanted:
                break
            end += _SUM.size
            self.size += length
            yield data
        for fd, size in ((self._fd, self.size), (self._sums, end)):
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)

    def append(self, data: bytes) -> None:
        """Keep the next bytes (at most 1 MiB)."""
        _write(self._fd, data)
        _write(self._sums, _SUM.pack(len(data), xxhash.xxh3_64_intdigest(data)))
        self.size += len(data)

    def discard(self) -> None:
        """Forget what was received."""
        for suffix in ("", ".sums"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + suffix)

    def layer(self, diff_id: str) -> bytes | None:
        """The stream of the layer `diff_id` that this blob was unpacked to since the start of the
        machine; None where nothing says so."""
        try:
            with open(f"{self._path}.layer", encoding="ascii", errors="replace") as file:
                fields = file.read(_NOTE_MAX).split()
        except FileNotFoundError:
            return None
        if len(fields) != 3 or fields[:2] != [_boot_id(), diff_id]:
            return None
        try:
            return bytes.fromhex(fields[2])
        except ValueError:
            return None

    def complete(self, diff_id: str, stream: bytes) -> None:
        """The blob is stored, as the object `stream`: note that, and remove its bytes."""
        temporary = f"{self._path}.layer.new"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{_boot_id()} {diff_id} {stream.hex()}\n")
        os.rename(temporary, f"{self._path}.layer")
        self.discard()


def trim(directory: str, limit: int = TOTAL_MAX) -> None:
    """Remove the oldest downloads that nobody is at, until the rest has at most `limit` bytes."""
    found = []
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(os.path.join(directory, name), follow_symlinks=False)
            found.append((status.st_mtime, status.st_size, name))
    total = sum(size for _, size, _ in found)
    for _, size, name in sorted(found):
        if total <= limit:
            return
        if "." in name:  # goes with its blob
            continue
        path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for suffix in (".sums", ""):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path + suffix)
                total -= size
            finally:
                os.close(fd)


def _open_locked(path: str, digest: str, waiting: Callable[[str], object]) -> int:
    while True:
        fd = os.open(path, _FLAGS, 0o644)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting(f"{digest}: waiting for another pull that receives it")
                fcntl.flock(fd, fcntl.LOCK_EX)
            # Who had the lock may have removed the file.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
