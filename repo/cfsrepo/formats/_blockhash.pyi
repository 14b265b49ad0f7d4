"""Hashing the blocks of files, several at a time: what `native/module.c` offers.

`algorithm` is a kernel's number (FS_VERITY_HASH_ALG_*). `engine` is one of `engines(algorithm)`;
None is the first of them. Blocks are 4096 bytes; a short last one is padded with zeros. Long work
goes on without the interpreter's lock and ends when a signal's handler raises.

Errors: ValueError for an unknown algorithm or engine, TypeError for what is no buffer, OSError of
pread(2), MemoryError.
"""

from collections.abc import Iterable

from typing_extensions import Buffer

def engines(algorithm: int, /) -> list[str]:
    """The engines that this processor has, the fastest first; the last one is "portable"."""

def hash_blocks(data: Buffer, algorithm: int, engine: str | None = None, /) -> bytes:
    """The hashes of the blocks of `data` in a row."""

def digest(data: Buffer, algorithm: int, engine: str | None = None, /) -> bytes:
    """The fs-verity digest of `data`."""

def digest_many(
    buffers: Iterable[Buffer], algorithm: int, engine: str | None = None, /
) -> list[bytes]:
    """The fs-verity digest of each buffer. Those of one block are hashed side by side."""

def digest_fd(fd: int, algorithm: int, engine: str | None = None, /) -> bytes:
    """The fs-verity digest of a file, read from its start to its end; the offset stays."""

def hash_fd(
    fd: int, offset: int, length: int, algorithm: int, engine: str | None = None, /
) -> bytes:
    """The hashes of the blocks of a range of a file, in a row; fewer where the file ends."""

def read_fd(
    fd: int, offset: int, length: int, algorithm: int, engine: str | None = None, /
) -> tuple[bytes, bytes]:
    """A range of a file, and the hashes of its blocks in a row; less where the file ends."""
