"""The digest of a large file by all processors: for who waits for it, as a mount does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Final

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm

# Below this, starting processes costs more than they save.
PARALLEL_MIN: Final = 32 << 20
_READ_SIZE: Final = 1 << 20


def digest_fd(fd: int, algorithm: Algorithm) -> bytes:
    """`fsverity.digest_fd`, by several processes where that is faster.

    Where this process has other threads it does the work alone: a fork of such a process could find
    a lock held for ever.
    """
    size = os.fstat(fd).st_size
    workers = len(os.sched_getaffinity(0))
    if size < PARALLEL_MIN or workers < 2 or threading.active_count() > 1:
        return fsverity.digest_fd(fd, algorithm)
    from cfsrepo.system import pool  # loads multiprocessing, which small files should not pay for

    share = -(-size // workers // BLOCK_SIZE) * BLOCK_SIZE
    parts = [(start, min(start + share, size)) for start in range(0, size, share)]

    def leaves(part: tuple[int, int]) -> bytes:
        return b"".join(_leaves(fd, *part, algorithm))

    done = dict(pool.run(parts, leaves, workers))
    level = b"".join(done[part] for part in parts)
    while len(level) > algorithm.digest_size:
        level = fsverity.hash_blocks(level, algorithm)
    return fsverity.digest_of_root(level, size, algorithm)


def _leaves(fd: int, start: int, end: int, algorithm: Algorithm) -> Iterator[bytes]:
    for offset in range(start, end, _READ_SIZE):
        yield fsverity.hash_blocks(os.pread(fd, min(_READ_SIZE, end - offset), offset), algorithm)
