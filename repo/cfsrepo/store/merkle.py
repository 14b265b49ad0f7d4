"""Checking parts of a large object: its fs-verity Merkle tree, kept beside the object store.

    cfsfuse/merkle/XX/REST    the tree of objects/XX/REST

A tree file is the levels of the tree from the hashes of the data blocks upwards, each level in
whole blocks of 4096 bytes (the last one padded with zeros), up to the level of one block, whose
hash is the root. It has no header: the size of the object determines every offset. An object of one
block has no tree.

A tree is not trusted. The object's digest covers its size and the root hash, the root hash covers
the top block, and so on downwards; `MerkleTree` checks each block of the tree against the one above
it before it uses a hash in it, and keeps what it has checked in memory, never reading it again. So
a tree file may be lost, damaged or written by an adversary: a wrong byte of data is not accepted.
Because of that the files need no sync either. The directory can be removed at any time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cfsrepo.errors import DigestMismatchError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm, Buffer
from cfsrepo.store.objects import object_path
from cfsrepo.store.temporary import make_directory, temporary_name

DIRECTORY: Final = "cfsfuse/merkle"  # below the repository

_READ_SIZE: Final = 1 << 20
# Blocks of a tree kept in memory: with sha256 they cover half a MiB of data each.
_BLOCKS_KEPT: Final = 256


class TreeDamagedError(Exception):
    """A block of a tree file is not what the block above it promises. The data may be fine."""


def level_blocks(size: int, algorithm: Algorithm) -> list[int]:
    """Number of blocks of each level of the tree of `size` bytes of data, lowest level first."""
    levels = []
    blocks = -(-size // BLOCK_SIZE)
    while blocks > 1:
        blocks = -(-blocks * algorithm.digest_size // BLOCK_SIZE)
        levels.append(blocks)
    return levels


class MerkleTree:
    """The tree of an object of `size` > 4096 bytes with this `digest`, in the file `fd`.

    Owns `fd`. May be used by several threads at once.
    """

    def __init__(self, fd: int, size: int, digest: bytes, algorithm: Algorithm) -> None:
        self._fd = fd
        self._size = size
        self._digest = digest
        self._algorithm = algorithm
        self._fan_out = BLOCK_SIZE // algorithm.digest_size
        self._levels = level_blocks(size, algorithm)
        self._starts = [sum(self._levels[:level]) for level in range(len(self._levels))]
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release the tree file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def check(self, first_block: int, data: Buffer) -> bool:
        """Whether `data` is what the object has from block `first_block` on.

        `data` is whole blocks, or ends with the object. Raises `TreeDamagedError`.
        """
        return self.check_hashes(first_block, fsverity.hash_blocks(data, self._algorithm))

    def check_hashes(self, first_block: int, found: bytes) -> bool:
        """As `check`, where the hashes of the blocks are known already."""
        size = self._algorithm.digest_size
        at = 0
        block = first_block
        while at < len(found):
            index, position = divmod(block, self._fan_out)
            count = min(len(found) - at, (self._fan_out - position) * size)
            start = position * size
            if self._checked(index)[start : start + count] != found[at : at + count]:
                return False
            at += count
            block += count // size
        return True

    def _checked(self, index: int) -> bytes:
        """Block `index` of the lowest level, checked from the digest downwards."""
        with self._lock:
            # Upwards to the first block that is known to be good, then down again.
            path = []
            level = 0
            while level < len(self._levels):
                good = self._kept.get((level, index))
                if good is not None:
                    self._kept.move_to_end((level, index))
                    break
                path.append((level, index))
                index //= self._fan_out
                level += 1
            else:
                good = None
            while path:
                level, index = path.pop()
                good = self._check_block(level, index, good)
                self._kept[level, index] = good
                if len(self._kept) > _BLOCKS_KEPT:
                    self._kept.popitem(last=False)
            assert good is not None
            return good

    def _check_block(self, level: int, index: int, above: bytes | None) -> bytes:
        block = os.pread(self._fd, BLOCK_SIZE, (self._starts[level] + index) * BLOCK_SIZE)
        if len(block) != BLOCK_SIZE:
            raise TreeDamagedError
        found = fsverity.hash_blocks(block, self._algorithm)
        if above is None:
            if fsverity.digest_of_root(found, self._size, self._algorithm) != self._digest:
                raise TreeDamagedError
        else:
            start = index % self._fan_out * len(found)
            if above[start : start + len(found)] != found:
                raise TreeDamagedError
        return block


class MerkleStore:
    """The tree files of a repository in the directory `path`; None: trees are made and forgotten.

    Trees that cannot be stored (a repository of somebody else, a full disk) live in a temporary
    file as long as they are open.
    """

    def __init__(self, path: str | None, algorithm: Algorithm) -> None:
        self._path = path
        self._algorithm = algorithm

    def load(self, size: int, digest: bytes) -> MerkleTree | None:
        """The stored tree; None where there is none of the right size."""
        if self._path is None:
            return None
        try:
            fd = os.open(
                f"{self._path}/{object_path(digest)}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError:  # whatever the reason: a new one can be made
            return None
        if os.fstat(fd).st_size != sum(level_blocks(size, self._algorithm)) * BLOCK_SIZE:
            os.close(fd)
            return None
        return MerkleTree(fd, size, digest, self._algorithm)

    def make(
        self,
        read: Callable[[int, int], Buffer],
        size: int,
        digest: bytes,
        next_data: Callable[[int], int] = lambda offset: offset,
    ) -> MerkleTree:
        """Make the tree of the object that `read(offset, size)` reads, and store it if possible.

        Reads the whole object, in bounded memory, but for holes: `next_data(offset)` is where data
        comes next. (A hole that is none makes another digest, as any damage does.)
        `DigestMismatchError` when the object does not have this digest.
        """
        zeros = fsverity.hash_blocks(bytes(_READ_SIZE), self._algorithm)

        def leaves() -> Iterator[bytes]:
            data = 0
            for offset in range(0, size, _READ_SIZE):
                wanted = min(_READ_SIZE, size - offset)
                if data <= offset:
                    data = next_data(offset)
                if data >= offset + _READ_SIZE and wanted == _READ_SIZE:
                    yield zeros
                    continue
                chunk = read(offset, wanted)
                if len(chunk) != wanted:
                    raise DigestMismatchError(f"object {digest.hex()}: cut short")
                yield fsverity.hash_blocks(chunk, self._algorithm)

        try:
            fd = self._build(leaves(), size, digest)
        except OSError:
            if self._path is None:
                raise
            self._path = None  # full, perhaps: a tree without a name is as good
            fd = self._build(leaves(), size, digest)
        return MerkleTree(fd, size, digest, self._algorithm)

    def store(self, size: int, digest: bytes, leaves: Buffer) -> None:
        """Store the tree of an object that was just hashed: `leaves` are its blocks' hashes.

        Where it cannot be stored nothing happens: the tree can be made later.
        """
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.close(self._build([leaves], size, digest))

    def _build(self, leaves: Iterable[Buffer], size: int, digest: bytes) -> int:
        """The tree above `leaves` in an open file, which has its name where that is possible."""
        fd, name = self._draft()
        try:
            root = _write_levels(fd, leaves, self._algorithm)
            if fsverity.digest_of_root(root, size, self._algorithm) != digest:
                raise DigestMismatchError(
                    f"object {digest.hex()}: content does not have this digest"
                )
            if name is not None:
                self._publish(name, digest)
        except BaseException:
            os.close(fd)
            if name is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
            raise
        return fd

    def _draft(self) -> tuple[int, str | None]:
        """A new file: (descriptor, name), without name where our directory cannot be written."""
        if self._path is not None:
            name = f"{self._path}/{temporary_name()}"
            try:
                os.makedirs(self._path, exist_ok=True)
                return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), name
            except OSError:
                self._path = None  # not ours to write: a tree is as good without a name
        import tempfile  # slow to load, seldom needed

        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno()), None

    def _publish(self, name: str, digest: bytes) -> None:
        path = f"{self._path}/{object_path(digest)}"
        make_directory(os.path.dirname(path))
        os.rename(name, path)


def _write_levels(fd: int, leaves: Iterable[Buffer], algorithm: Algorithm) -> bytes:
    """Write the levels above `leaves` to the empty file `fd`; returns the root hash."""
    start = end = 0
    for hashes in leaves:
        end += _write(fd, hashes)
    while end - start > algorithm.digest_size:
        end += _write(fd, bytes(-end % BLOCK_SIZE))
        level_end = end
        for offset in range(start, level_end, _READ_SIZE):
            chunk = os.pread(fd, min(_READ_SIZE, level_end - offset), offset)
            end += _write(fd, fsverity.hash_blocks(chunk, algorithm))
        start = level_end
    root = os.pread(fd, algorithm.digest_size, start)
    os.ftruncate(fd, start)
    return root


def _write(fd: int, data: Buffer) -> int:
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(fd, view[written:])
        return written
