"""The digest of a large file by all processors, for a caller that waits for it, as a mount does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm, scales

# Below this, starting threads or processes costs more than they save.
THREADS_MIN: Final = 4 << 20
PROCESSES_MIN: Final = 32 << 20
_PIECE: Final = 4 << 20  # bytes; a multiple of what a block of hashes covers
_READ_SIZE: Final = 1 << 20


def digest_fd(fd: int, algorithm: Algorithm) -> bytes:
    """`fsverity.digest_fd`, by several threads or processes where that is faster.

    Processes only where threads would wait for each other, and only where this process has no other
    threads: a fork of such a process could find a lock held for ever.
    """
    size = os.fstat(fd).st_size
    workers = len(os.sched_getaffinity(0))
    if workers < 2:
        return fsverity.digest_fd(fd, algorithm)
    if scales(algorithm):
        if size < THREADS_MIN:
            return fsverity.digest_fd(fd, algorithm)
        level = _by_threads(fd, size, algorithm, workers)
    else:
        if size < PROCESSES_MIN or threading.active_count() > 1:
            return fsverity.digest_fd(fd, algorithm)
        level = _by_processes(fd, size, algorithm, workers)
    while len(level) > algorithm.digest_size:
        level = fsverity.hash_blocks(level, algorithm)
    return fsverity.digest_of_root(level, size, algorithm)


def _by_threads(fd: int, size: int, algorithm: Algorithm, workers: int) -> bytes:
    """The second level of the tree, of a file that has one."""
    starts = range(0, size, _PIECE)
    parts = [b""] * len(starts)

    def work(number: int) -> None:
        start = starts[number]
        leaves = fsverity.hash_range(fd, start, min(_PIECE, size - start), algorithm)
        parts[number] = fsverity.hash_blocks(leaves, algorithm)

    _share(work, len(starts), workers)
    return b"".join(parts)


def _share(work: Callable[[int], None], count: int, workers: int) -> None:
    """work(0) to work(count - 1), by `workers` threads; this one is among them.

    The first exception ends the others, after the piece they are at, and is raised here.
    """
    numbers = iter(range(count))  # a step of it is atomic
    failures: list[Exception] = []
    given_up = False

    def some() -> None:
        try:
            for number in numbers:
                if failures or given_up:
                    return
                work(number)
        except Exception as error:  # noqa: BLE001 - raised by whoever waits
            failures.append(error)

    others: list[threading.Thread] = []
    try:
        for _ in range(min(workers, count) - 1):
            thread = threading.Thread(target=some, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads are to be had: fewer will do
                break
            others.append(thread)
        some()
    except BaseException:
        given_up = True
        raise
    finally:  # nobody uses the file after we return
        for thread in others:
            thread.join()
    if failures:
        raise failures[0]


def _by_processes(fd: int, size: int, algorithm: Algorithm, workers: int) -> bytes:
    """The first level of the tree."""
    from cfsrepo.system import pool  # loads multiprocessing, which small files should not pay for

    share = -(-size // workers // BLOCK_SIZE) * BLOCK_SIZE
    parts = [(start, min(start + share, size)) for start in range(0, size, share)]

    def leaves(part: tuple[int, int]) -> bytes:
        return b"".join(_leaves(fd, *part, algorithm))

    done = dict(pool.run(parts, leaves, workers))
    return b"".join(done[part] for part in parts)


def _leaves(fd: int, start: int, end: int, algorithm: Algorithm) -> Iterator[bytes]:
    for offset in range(start, end, _READ_SIZE):
        yield fsverity.hash_range(fd, offset, min(_READ_SIZE, end - offset), algorithm)
