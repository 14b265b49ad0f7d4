"""fs-verity digests in user space: what the kernel's `FS_IOC_MEASURE_VERITY` would say.

The file is cut into blocks of 4096 bytes, the last one padded with zeros; each is hashed. The
hashes in a row are cut into blocks again, and so on until one block is left: its hash is the root.
A file of one block has that block's hash for root, an empty file a root of zeros. The digest is the
hash of the 256-byte descriptor (`struct fsverity_descriptor`), which holds the file's size and the
root. No salt, no signature. Reference: Documentation/filesystems/fsverity.rst.

The blocks are independent of each other, so several can be hashed side by side: the native module
`_blockhash` does that, without the interpreter's lock. Where it was not compiled (`python setup.py
build_ext --inplace` does it in a source tree), or has nothing faster for this processor, hashlib
hashes one block after the other. The environment variable CFS_BLOCKHASH=hashlib asks for that.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

BLOCK_SIZE: Final = 4096
Buffer = bytes | bytearray | memoryview | mmap.mmap

if TYPE_CHECKING:
    from cfsrepo.formats import _blockhash as _native
elif os.environ.get("CFS_BLOCKHASH") == "hashlib":
    _native = None
else:
    try:
        from cfsrepo.formats import _blockhash as _native
    except ImportError:
        _native = None

_READ_SIZE: Final = 1 << 20
_DESCRIPTOR_SIZE: Final = 256
_ZERO_BLOCK: Final = bytes(BLOCK_SIZE)
_LEAVES_AT_ONCE: Final = 1 << 15


class _Hash(Protocol):
    def digest(self) -> bytes: ...


def _native_from(kernel_id: int) -> int:
    """From how many bytes on the native module is faster than hashlib."""
    engine = "portable" if _native is None else _native.engines(kernel_id)[0]
    if engine == "portable":
        return sys.maxsize
    # Vectors are for several blocks; OpenSSL is good at one.
    return 0 if engine == "sha-ni" else 2 * BLOCK_SIZE + 1


class Algorithm(StrEnum):
    """A digest algorithm as meta.json names it: hash, and log2 of the block size."""

    SHA256 = "fsverity-sha256-12", "sha256", 32, 1
    SHA512 = "fsverity-sha512-12", "sha512", 64, 2

    hash_name: str
    """Its name in `hashlib`."""
    digest_size: int
    """Bytes in a raw digest."""
    kernel_id: int
    """FS_VERITY_HASH_ALG_*."""
    _new: Callable[[Buffer], _Hash]
    _native_from: int  # bytes of data
    _head: bytes  # of the descriptor: what comes before the size ...
    _tail: bytes  # ... and after the root

    # Plain attributes, not properties nor tables keyed by member: an Enum's `__hash__` and
    # properties cost more than hashing a small file does.
    def __new__(
        cls, value: str, hash_name: str = "", digest_size: int = 0, kernel_id: int = 0
    ) -> Algorithm:
        self = str.__new__(cls, value)
        self._value_ = value
        self.hash_name = hash_name
        self.digest_size = digest_size
        self.kernel_id = kernel_id
        self._new = self._load_hashlib
        self._native_from = _native_from(kernel_id)
        # version 1, algorithm, log2 of the block size, no salt; no signature
        self._head = bytes((1, kernel_id, 12, 0, 0, 0, 0, 0))
        self._tail = bytes(_DESCRIPTOR_SIZE - 16 - digest_size)
        return self

    def _load_hashlib(self, data: Buffer) -> _Hash:
        """The first call of `_new`: loading OpenSSL takes longer than a small command."""
        import hashlib

        self._new = getattr(hashlib, self.hash_name)
        return self._new(data)

    @classmethod
    def from_kernel_id(cls, number: int) -> Algorithm:
        """The algorithm of an FS_VERITY_HASH_ALG_*; ValueError for one that is not known here."""
        for algorithm in cls:
            if algorithm.kernel_id == number:
                return algorithm
        raise ValueError(f"unknown fs-verity hash algorithm {number}")


class VerityPolicy(StrEnum):
    """What a repository asks of its file system."""

    REQUIRE = "require"
    """Every object is protected by the kernel; storing fails where it cannot be."""
    TRY = "try"
    """Objects are protected where the file system has fs-verity."""
    OFF = "off"
    """fs-verity is never enabled; digests are computed in user space only."""


def _digest_of(algorithm: Algorithm, size: int, root: bytes) -> bytes:
    descriptor = algorithm._head + size.to_bytes(8, "little") + root + algorithm._tail
    return algorithm._new(descriptor).digest()


def _hash_blocks(data: Buffer, algorithm: Algorithm) -> bytes:
    """The hashes of `data`'s blocks in a row; a short last block is padded."""
    size = len(data)
    if size >= algorithm._native_from:
        return _native.hash_blocks(data, algorithm.kernel_id)
    new = algorithm._new
    whole = size - size % BLOCK_SIZE
    with memoryview(data) as view:
        hashes = [new(view[at : at + BLOCK_SIZE]).digest() for at in range(0, whole, BLOCK_SIZE)]
        if whole != size:
            hashes.append(new(bytes(view[whole:]) + _ZERO_BLOCK[size - whole :]).digest())
    return b"".join(hashes)


def digest(data: Buffer, algorithm: Algorithm = Algorithm.SHA256) -> bytes:
    """The raw fs-verity digest of `data`."""
    size = len(data)
    if size >= algorithm._native_from:
        return _native.digest(data, algorithm.kernel_id)
    if size <= BLOCK_SIZE:  # most files are small: no views, no lists
        if size == 0:
            return _digest_of(algorithm, 0, bytes(algorithm.digest_size))
        block = b"".join((data, _ZERO_BLOCK[size:]))
        return _digest_of(algorithm, size, algorithm._new(block).digest())
    level = _hash_blocks(data, algorithm)
    while len(level) > algorithm.digest_size:
        level = _hash_blocks(level, algorithm)
    return _digest_of(algorithm, size, level)


def digest_many(buffers: Sequence[Buffer], algorithm: Algorithm = Algorithm.SHA256) -> list[bytes]:
    """The raw fs-verity digest of each of `buffers`; many small ones are faster so than singly."""
    if _native is not None and scales(algorithm):
        return _native.digest_many(buffers, algorithm.kernel_id)
    return [digest(data, algorithm) for data in buffers]


def scales(algorithm: Algorithm) -> bool:
    """Whether threads hash side by side; where not, the interpreter's lock makes them wait."""
    return algorithm._native_from < sys.maxsize


def hash_blocks(data: Buffer, algorithm: Algorithm) -> bytes:
    """A level of the tree: the hashes of `data`'s blocks in a row, a short last one padded."""
    return _hash_blocks(data, algorithm)


def digest_of_root(root: bytes, size: int, algorithm: Algorithm) -> bytes:
    """The digest of a file of `size` bytes whose tree has this root hash."""
    return _digest_of(algorithm, size, root)


class Hasher:
    """The digest of data that comes in pieces. Memory: a block for each level of the tree.

    `leaves` is called with the hashes of the blocks as they become known, but for a last block that
    is not full: `last_leaf()`.
    """

    def __init__(
        self,
        algorithm: Algorithm = Algorithm.SHA256,
        leaves: Callable[[bytes], object] | None = None,
    ) -> None:
        self.algorithm = algorithm
        self._leaves = leaves
        self.size = 0
        """Bytes so far."""
        self._rest = bytearray()  # of the data, less than a block between calls
        self._levels: list[bytearray] = []  # hashes that wait for their block to be full

    def update(self, data: Buffer) -> None:
        """Append `data`."""
        self.size += len(data)
        with memoryview(data) as view:
            at = 0
            if self._rest:
                at = min(BLOCK_SIZE - len(self._rest), len(view))
                self._rest += view[:at]
                if len(self._rest) < BLOCK_SIZE:
                    return
                self._push(_hash_blocks(self._rest, self.algorithm))
                self._rest.clear()
            whole = at + (len(view) - at) // BLOCK_SIZE * BLOCK_SIZE
            if whole > at:
                self._push(_hash_blocks(view[at:whole], self.algorithm))
            self._rest += view[whole:]

    def update_zeros(self, length: int) -> None:
        """Append `length` zeros. A run of equal blocks costs next to nothing, however long it is.

        (But for `leaves`, which is called with the hash of each block.)
        """
        first = min(-len(self._rest) % BLOCK_SIZE, length)
        blocks, last = divmod(length - first, BLOCK_SIZE)
        self.update(bytes(first))
        if blocks:
            self.size += blocks * BLOCK_SIZE
            self._push_equal(_hash_blocks(_ZERO_BLOCK, self.algorithm), blocks)
        self.update(bytes(last))

    def _push_equal(self, leaf: bytes, count: int) -> None:
        """Append `count` equal hashes to the lowest level, and upwards what follows from them."""
        if self._leaves is not None:
            piece = leaf * min(count, _LEAVES_AT_ONCE)
            for _ in range(count // _LEAVES_AT_ONCE):
                self._leaves(piece)
            self._leaves(piece[: count % _LEAVES_AT_ONCE * len(leaf)])
        in_block = BLOCK_SIZE // len(leaf)
        level = 0
        while count:
            if level == len(self._levels):
                self._levels.append(bytearray())
            pending = self._levels[level]
            first = min(in_block - len(pending) // len(leaf), count)
            count -= first
            pending += leaf * first
            if len(pending) < BLOCK_SIZE:
                return
            # The block that is full now differs from those that follow.
            self._push(_hash_blocks(pending, self.algorithm), level + 1)
            blocks, rest = divmod(count, in_block)
            self._levels[level] = bytearray(leaf * rest)
            leaf = _hash_blocks(leaf * in_block, self.algorithm)
            count = blocks
            level += 1

    def _push(self, hashes: bytes, level: int = 0) -> None:
        """Append `hashes` to a level, and upwards for each block that gets full."""
        if self._leaves is not None and level == 0:
            self._leaves(hashes)
        while hashes:
            if level == len(self._levels):
                self._levels.append(bytearray())
            pending = self._levels[level]
            pending += hashes
            whole = len(pending) // BLOCK_SIZE * BLOCK_SIZE
            if not whole:
                return
            hashes = _hash_blocks(memoryview(pending)[:whole], self.algorithm)
            # A new object: `del pending[:whole]` fails while a view of it lives in a traceback.
            self._levels[level] = pending[whole:]
            level += 1

    def last_leaf(self) -> bytes:
        """The hash of a last block that is not full; empty where there is none."""
        return _hash_blocks(self._rest, self.algorithm)

    def digest(self) -> bytes:
        """The digest of all data so far; more may follow."""
        if self.size == 0:
            return _digest_of(self.algorithm, 0, bytes(self.algorithm.digest_size))
        carry = _hash_blocks(self._rest, self.algorithm)
        for number, pending in enumerate(self._levels):
            hashes = bytes(pending) + carry
            top = number == len(self._levels) - 1
            if top and len(hashes) == self.algorithm.digest_size:
                return _digest_of(self.algorithm, self.size, hashes)
            carry = _hash_blocks(hashes, self.algorithm)
        while len(carry) > self.algorithm.digest_size:
            carry = _hash_blocks(carry, self.algorithm)
        return _digest_of(self.algorithm, self.size, carry)


def digest_fd(fd: int, algorithm: Algorithm = Algorithm.SHA256) -> bytes:
    """The digest of the file behind `fd`, read from its start with pread; the offset stays."""
    if scales(algorithm):
        return _native.digest_fd(fd, algorithm.kernel_id)
    hasher = Hasher(algorithm)
    while chunk := os.pread(fd, _READ_SIZE, hasher.size):
        hasher.update(chunk)
    return hasher.digest()


def hash_range(fd: int, offset: int, length: int, algorithm: Algorithm) -> bytes:
    """The hashes of the blocks of a range of a file, in a row; fewer where the file ends.

    The offset of `fd` stays.
    """
    if scales(algorithm):
        return _native.hash_fd(fd, offset, length, algorithm.kernel_id)
    hashes = []
    for at in range(offset, offset + length, _READ_SIZE):
        data = _pread(fd, min(_READ_SIZE, offset + length - at), at)
        hashes.append(_hash_blocks(data, algorithm))
        if len(data) < _READ_SIZE:
            break
    return b"".join(hashes)


def read_range(fd: int, offset: int, length: int, algorithm: Algorithm) -> tuple[bytes, bytes]:
    """A range of a file, and the hashes of its blocks in a row; less where the file ends.

    The offset of `fd` stays.
    """
    if scales(algorithm):
        return _native.read_fd(fd, offset, length, algorithm.kernel_id)
    data = _pread(fd, length, offset)
    return data, _hash_blocks(data, algorithm)


def _pread(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`; fewer only where the file ends."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data
