"""Content of files that is in the object directory of a repository, checked before it is served.

Whoever can write to the repository, or a failing disk, can change an object. So a byte is served
only when it is known to belong to the object's fs-verity digest, which the image names and the
image's own digest covers:

- where the kernel measures the object and finds this digest, the kernel checks every read itself;
- an object of at most `WHOLE_MAX` bytes is read as a whole, checked, and served from that memory;
- of a larger one each 4 KiB block is checked as it is read, against its Merkle tree
  (`cfsrepo.store.merkle`), which is itself checked from the digest downwards.

In user space it is always the bytes in hand that are checked, never "the file, some time before":
no change of the file can slip in between. The page cache of the mount then holds checked data, so
that reading again costs nothing.

Nothing waits for the disk in the methods called `..._ready`.
"""

from __future__ import annotations

import errno
import os
import stat
from enum import StrEnum
from typing import Final

from cfsrepo.errors import DigestMismatchError
from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.reader import Backing
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm
from cfsrepo.images.contents import Buffer, Content
from cfsrepo.store.merkle import MerkleStore, MerkleTree, TreeDamagedError
from cfsrepo.store.objects import digest_from_path
from cfsrepo.system import linux

WHOLE_MAX: Final = 1 << 20
_AROUND: Final = 128 << 10  # as much as the kernel reads around a page fault
_RESOLVE: Final = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS
# O_NONBLOCK: a FIFO in the place of an object must not hang us.
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_ALGORITHMS: Final = {algorithm.digest_size: algorithm for algorithm in Algorithm}


class Verify(StrEnum):
    """What checks the objects."""

    AUTO = "auto"  # the kernel where it has fs-verity on the object, we elsewhere
    ALWAYS = "always"  # we, whatever the kernel says
    OFF = "off"  # nobody but a kernel with fs-verity


class DamagedError(OSError):
    """An object is missing or is not what its digest says: EIO for the file that needs it."""

    def __init__(self, backing: Backing, reason: str) -> None:
        super().__init__(errno.EIO, f"object {os.fsdecode(backing.path)}: {reason}")


class ObjectDirectory:
    """The objects below the directory `path`, opened by the path that an image gives.

    Such a path is not trusted: it can neither leave the directory nor lead through a symlink.
    `merkle` keeps the trees of large objects. `verified` counts bytes checked in user space.
    """

    def __init__(
        self,
        path: str | bytes,
        *,
        verify: Verify = Verify.AUTO,
        merkle: str | None = None,
    ) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._verify = verify
        self._stores = {
            size: MerkleStore(merkle, algorithm) for size, algorithm in _ALGORITHMS.items()
        }
        # Whether the file system may have fs-verity; one refusal of the ioctl says no for good.
        self._measures = verify is not Verify.ALWAYS
        self.verified = 0

    def close(self) -> None:
        """Release the directory. Contents stay usable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open(self, backing: Backing, size: int) -> Content:
        """The object's content for a file of `size` bytes; reads it where it must be checked.

        Raises `DamagedError` (an OSError with EIO).
        """
        content = self._open(backing, size, _RESOLVE, ready=False)
        assert content is not None
        return content

    def open_ready(self, backing: Backing, size: int) -> Content | None:
        """As `open`, but None where the disk, or much computing, would have to be waited for."""
        return self._open(backing, size, _RESOLVE | linux.RESOLVE_CACHED, ready=True)

    def _open(self, backing: Backing, size: int, resolve: int, *, ready: bool) -> Content | None:
        try:
            fd = linux.openat2(self._fd, backing.path, _FLAGS, resolve=resolve)
        except BlockingIOError:
            return None
        except OSError as error:
            if ready:
                return None  # the slow way says what is wrong
            raise DamagedError(backing, error.strerror or "cannot be opened") from error
        content: Content | None = None
        try:
            content = self._checked(fd, backing, size, ready=ready)
        finally:
            if content is None or isinstance(content, WholeContent):
                os.close(fd)
        return content

    def _checked(self, fd: int, backing: Backing, size: int, *, ready: bool) -> Content | None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(backing, "not a regular file")
        if status.st_size != size:
            raise DamagedError(backing, f"{status.st_size} bytes long, {size} by the image")
        digest = backing.digest or _digest_of_path(backing.path)
        if digest is None and self._verify is Verify.ALWAYS:
            raise DamagedError(backing, "the image gives no digest of it")
        if digest is None or self._kernel_checks(fd, backing, digest):
            return PlainContent(fd, backing, size)
        if self._verify is Verify.OFF:
            return PlainContent(fd, backing, size)
        if size <= WHOLE_MAX:
            return self._whole(fd, backing, size, digest, ready=ready)
        return None if ready else self._large(fd, backing, size, digest)

    def _kernel_checks(self, fd: int, backing: Backing, digest: bytes) -> bool:
        """Whether the kernel checks each read of `fd` against `digest`."""
        if not self._measures:
            return False
        try:
            measured = linux.measure_verity_strict(fd)
        except OSError as error:
            if error.errno not in linux.VERITY_UNSUPPORTED:
                raise
            self._measures = False
            return False
        if measured is None or measured[0] != _ALGORITHMS[len(digest)].kernel_id:
            return False
        if measured[1] != digest:
            raise DamagedError(backing, "the kernel measures another digest")
        return True

    def _whole(
        self, fd: int, backing: Backing, size: int, digest: bytes, *, ready: bool
    ) -> Content | None:
        data = _read_ready(fd, 0, size) if ready else _read_all(fd, 0, size)
        if data is None:
            return None
        if len(data) != size or fsverity.digest(data, _ALGORITHMS[len(digest)]) != digest:
            raise DamagedError(backing, "content does not have its digest")
        self.verified += size
        return WholeContent(data)

    def _large(self, fd: int, backing: Backing, size: int, digest: bytes) -> Content:
        store = self._stores[len(digest)]
        tree = store.load(size, digest)
        if tree is None:
            tree = self._make_tree(store, fd, backing, size, digest)
        return TreeContent(self, fd, backing, size, digest, tree)

    def _make_tree(
        self, store: MerkleStore, fd: int, backing: Backing, size: int, digest: bytes
    ) -> MerkleTree:
        try:
            return store.make(
                lambda offset, count: _read_all(fd, offset, count),
                size,
                digest,
                lambda offset: _next_data(fd, offset, size),
            )
        except DigestMismatchError as error:
            raise DamagedError(backing, "content does not have its digest") from error

    def remake_tree(self, fd: int, backing: Backing, size: int, digest: bytes) -> MerkleTree:
        """A new tree in the place of a damaged one, made from the object."""
        return self._make_tree(self._stores[len(digest)], fd, backing, size, digest)


class PlainContent:
    """An object that is served as it is read: the kernel checks it, or nobody has to."""

    __slots__ = ("_backing", "_fd", "_size")

    def __init__(self, fd: int, backing: Backing, size: int) -> None:
        self._fd = fd
        self._backing = backing
        self._size = size

    def read(self, offset: int, size: int) -> Buffer:
        count = min(size, self._size - offset)
        if count <= 0:
            return b""
        data = _read_all(self._fd, offset, count)
        if len(data) != count:
            raise DamagedError(self._backing, "cut short while it is mounted")
        return data

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        count = min(size, self._size - offset)
        return b"" if count <= 0 else _read_ready(self._fd, offset, count)

    def close(self) -> None:
        os.close(self._fd)

    @property
    def held(self) -> int:
        return 0


class WholeContent:
    """A checked object in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)

    def read(self, offset: int, size: int) -> Buffer:
        return self._data[offset : offset + size]

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return self._data[offset : offset + size]

    def close(self) -> None:
        """The memory goes with the last reader."""

    @property
    def held(self) -> int:
        return len(self._data)


class TreeContent:
    """A large object, each block of which is checked against the Merkle tree as it is read."""

    __slots__ = ("_backing", "_digest", "_fd", "_objects", "_size", "_trees")

    def __init__(
        self,
        objects: ObjectDirectory,
        fd: int,
        backing: Backing,
        size: int,
        digest: bytes,
        tree: MerkleTree,
    ) -> None:
        self._objects = objects
        self._fd = fd
        self._backing = backing
        self._size = size
        self._digest = digest
        self._trees = [tree]  # the last is used; a damaged one stays open for its other readers

    def read(self, offset: int, size: int) -> Buffer:
        return self._read(offset, size, ready=False) or b""

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return self._read(offset, size, ready=True)

    def _read(self, offset: int, size: int, *, ready: bool) -> Buffer | None:
        end = min(offset + size, self._size)
        if offset >= end:
            return b""
        # Whole blocks, of which the wanted part is served.
        start = offset - offset % BLOCK_SIZE
        count = min(-(-end // BLOCK_SIZE) * BLOCK_SIZE, self._size) - start
        algorithm = _ALGORITHMS[len(self._digest)]
        data: Buffer | None
        if ready:
            data = _read_ready(self._fd, start, count)
            if data is None:
                return None
            hashes = fsverity.hash_blocks(data, algorithm)
        else:
            if count < _AROUND:
                # Who reads here and there (page faults of programs) will read nearby: the rest of
                # the neighbourhood comes into the page cache meanwhile, where reads do not wait.
                around = start - start % _AROUND
                os.posix_fadvise(self._fd, around, _AROUND, os.POSIX_FADV_WILLNEED)
            data, hashes = fsverity.read_range(self._fd, start, count, algorithm)
        if len(data) != count or not self._check(start // BLOCK_SIZE, hashes):
            raise DamagedError(
                self._backing, f"bytes {start} to {start + count} do not have their digest"
            )
        self._objects.verified += count
        return data if count == end - offset else memoryview(data)[offset - start : end - start]

    def _check(self, block: int, hashes: bytes) -> bool:
        try:
            return self._trees[-1].check_hashes(block, hashes)
        except TreeDamagedError:
            tree = self._objects.remake_tree(self._fd, self._backing, self._size, self._digest)
            self._trees.append(tree)
            return tree.check_hashes(block, hashes)

    def close(self) -> None:
        for tree in self._trees:
            tree.close()
        os.close(self._fd)

    @property
    def held(self) -> int:
        return 0


def _digest_of_path(path: bytes) -> bytes | None:
    """The digest that `xx/rest` names, of either algorithm."""
    text = os.fsdecode(path)
    for algorithm in Algorithm:
        digest = digest_from_path(text, algorithm)
        if digest is not None:
            return digest
    return None


def _next_data(fd: int, offset: int, size: int) -> int:
    """Where the file behind `fd` has data from `offset` on; `size` where only holes follow."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: no data follows. EINVAL: a file system that cannot tell.
        return size if error.errno == errno.ENXIO else offset


def _read_all(fd: int, offset: int, size: int) -> Buffer:
    """`size` bytes from `offset`; fewer only where the file ends."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    have = len(data)
    while have < size and (data := os.pread(fd, size - have, offset + have)):
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def _read_ready(fd: int, offset: int, size: int) -> Buffer | None:
    """`size` bytes from `offset` if all of them are in the page cache."""
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        # EOPNOTSUPP: a file system that cannot tell; the slow way can.
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return buffer if count == size else None
