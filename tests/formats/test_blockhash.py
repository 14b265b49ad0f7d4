"""The native module against hashlib: every engine that this processor has."""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from cfsrepo.formats.fsverity import Algorithm

blockhash = pytest.importorskip(
    "cfsrepo.formats._blockhash", reason="the native module was not compiled"
)

BLOCK = 4096
ENGINES = [
    (algorithm, engine)
    for algorithm in Algorithm
    for engine in blockhash.engines(algorithm.kernel_id)
]
every_engine = pytest.mark.parametrize(
    ("algorithm", "engine"), ENGINES, ids=[f"{a.hash_name}-{e}" for a, e in ENGINES]
)

DATA = random.Random(1).randbytes(9 << 20)


def sizes() -> list[int]:
    """Around the borders of blocks, of lanes, of batches and of levels, and some at random."""
    borders = [BLOCK * n for n in (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 66)]
    for fan_out in (64, 128):  # of a block of hashes
        borders += [BLOCK * fan_out, BLOCK * (fan_out + 1), BLOCK * fan_out * 8]
    borders += [256 << 10, 1 << 20, 2 << 20, BLOCK * 64 * 33]  # of reads, of steps, of three levels
    near = {border + step for border in borders for step in (-1, 0, 1) if border + step >= 0}
    generator = random.Random(2)
    return sorted(near | {generator.randrange(600_000) for _ in range(40)})


SIZES = sizes()


def plain_hashes(data: memoryview | bytes, algorithm: Algorithm) -> bytes:
    """The definition, by hashlib."""
    return b"".join(
        hashlib.new(algorithm.hash_name, bytes(data[at : at + BLOCK]).ljust(BLOCK, b"\0")).digest()
        for at in range(0, len(data), BLOCK)
    )


def plain_digest(data: memoryview | bytes, algorithm: Algorithm) -> bytes:
    level = plain_hashes(data, algorithm) if len(data) else bytes(algorithm.digest_size)
    while len(level) > algorithm.digest_size:
        level = plain_hashes(level, algorithm)
    descriptor = bytes((1, algorithm.kernel_id, 12, 0, 0, 0, 0, 0)) + len(data).to_bytes(
        8, "little"
    )
    return hashlib.new(algorithm.hash_name, (descriptor + level).ljust(256, b"\0")).digest()


@pytest.fixture(scope="module")
def expected() -> Callable[[Algorithm, int], tuple[bytes, bytes]]:
    """The hashes and the digest of the first bytes of DATA, computed once."""
    known: dict[tuple[Algorithm, int], tuple[bytes, bytes]] = {}

    def get(algorithm: Algorithm, size: int) -> tuple[bytes, bytes]:
        if (algorithm, size) not in known:
            data = memoryview(DATA)[:size]
            known[algorithm, size] = plain_hashes(data, algorithm), plain_digest(data, algorithm)
        return known[algorithm, size]

    return get


@pytest.fixture(scope="module")
def file() -> Iterator[int]:
    """A file with DATA in it."""
    fd = os.memfd_create("data")
    os.write(fd, DATA)
    yield fd
    os.close(fd)


Expected = Callable[[Algorithm, int], tuple[bytes, bytes]]


@every_engine
def test_buffers_of_all_sizes(algorithm: Algorithm, engine: str, expected: Expected) -> None:
    number = algorithm.kernel_id
    for size in SIZES:
        view = memoryview(DATA)[:size]
        hashes, digest = expected(algorithm, size)
        assert blockhash.hash_blocks(view, number, engine) == hashes, size
        assert blockhash.digest(view, number, engine) == digest, size


@every_engine
def test_large_buffer(algorithm: Algorithm, engine: str, expected: Expected) -> None:
    hashes, digest = expected(algorithm, len(DATA))
    assert blockhash.hash_blocks(DATA, algorithm.kernel_id, engine) == hashes
    assert blockhash.digest(DATA, algorithm.kernel_id, engine) == digest


@every_engine
def test_misaligned_buffers(algorithm: Algorithm, engine: str) -> None:
    number = algorithm.kernel_id
    for start, size in itertools.product([*range(1, 17), 31, 33, 63], [1, 5000, 20 * BLOCK + 7]):
        view = memoryview(DATA)[start : start + size]
        assert blockhash.hash_blocks(view, number, engine) == plain_hashes(view, algorithm)
        assert blockhash.digest(view, number, engine) == plain_digest(view, algorithm)


@every_engine
def test_files_of_all_sizes(algorithm: Algorithm, engine: str, expected: Expected) -> None:
    fd = os.memfd_create("growing")
    try:
        for size in SIZES:
            os.pwrite(fd, DATA[:size], 0)
            os.lseek(fd, 17, os.SEEK_SET)
            digest = expected(algorithm, size)[1]
            assert blockhash.digest_fd(fd, algorithm.kernel_id, engine) == digest, size
            assert os.lseek(fd, 0, os.SEEK_CUR) == 17
    finally:
        os.close(fd)


@every_engine
def test_ranges_of_files(file: int, algorithm: Algorithm, engine: str) -> None:
    number = algorithm.kernel_id
    end = len(DATA)
    for offset in (0, 1, BLOCK, 999_999, end - BLOCK, end - 1, end, end + 1, 2**40):
        for length in (0, 1, BLOCK, 3 * BLOCK + 1, 256 << 10, (256 << 10) + 1, 700_001):
            data = DATA[offset : offset + length]
            hashes = plain_hashes(data, algorithm)
            assert blockhash.hash_fd(file, offset, length, number, engine) == hashes
            assert blockhash.read_fd(file, offset, length, number, engine) == (data, hashes)


@every_engine
def test_many(algorithm: Algorithm, engine: str) -> None:
    generator = random.Random(3)
    edges = [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK, 20_000]
    for count in (0, 1, 2, 3, 16, 17, 63, 64, 65, 200):
        buffers = []
        for _ in range(count):
            size, start = generator.choice(edges), generator.randrange(1000)
            buffers.append(DATA[start : start + size])
        digests = [plain_digest(data, algorithm) for data in buffers]
        assert blockhash.digest_many(buffers, algorithm.kernel_id, engine) == digests
        assert blockhash.digest_many(iter(buffers), algorithm.kernel_id, engine) == digests


@every_engine
def test_threads_do_not_disturb_each_other(
    file: int, algorithm: Algorithm, engine: str, expected: Expected
) -> None:
    number = algorithm.kernel_id
    sizes = [2 * BLOCK * n + n for n in range(1, 60, 7)]

    def work(size: int) -> bool:
        hashes, digest = expected(algorithm, size)
        view = memoryview(DATA)[:size]
        return (
            blockhash.hash_blocks(view, number, engine) == hashes
            and blockhash.digest(view, number, engine) == digest
            and blockhash.hash_fd(file, 0, size, number, engine) == hashes
            and blockhash.digest_many([view] * 3, number, engine) == [digest] * 3
        )

    for size in sizes:
        expected(algorithm, size)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, sizes * 20))


def test_all_kinds_of_buffers() -> None:
    with mmap.mmap(-1, 3 * BLOCK) as mapped:
        digest = plain_digest(bytes(3 * BLOCK), Algorithm.SHA256)
        for buffer in (bytes(3 * BLOCK), bytearray(3 * BLOCK), memoryview(mapped), mapped):
            assert blockhash.digest(buffer, 1) == digest
            assert blockhash.digest_many([buffer], 1) == [digest]


@contextmanager
def zeros(size: int) -> Iterator[mmap.mmap]:
    """A buffer that takes no memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ) as mapped:
        yield mapped


def test_other_threads_run_meanwhile() -> None:
    """Without the lock released this thread would find the other one's work done."""
    started, done = threading.Event(), threading.Event()

    def hash_it(buffer: mmap.mmap) -> None:
        started.set()
        blockhash.hash_blocks(buffer, 1, "portable")
        done.set()

    interval = sys.getswitchinterval()
    with zeros(128 << 20) as buffer:
        thread = threading.Thread(target=hash_it, args=(buffer,))
        sys.setswitchinterval(1000)  # the lock changes hands only where it is released
        try:
            thread.start()
            started.wait()
            assert not done.is_set()
        finally:
            sys.setswitchinterval(interval)
            thread.join()


class StopError(Exception):
    """Raised by the handler of a signal."""


@contextmanager
def stopped() -> Iterator[None]:
    """A signal comes, and its handler raises StopError."""

    def handler(number: int, frame: object) -> None:
        raise StopError

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(StopError):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_signal_ends_long_work() -> None:
    size = 1 << 40  # minutes, at the least
    with zeros(size) as buffer, stopped():
        blockhash.digest(buffer, 1)
    fd = os.memfd_create("long")
    try:
        os.ftruncate(fd, size)
        with stopped():
            blockhash.digest_fd(fd, 1)
        with stopped():
            blockhash.hash_fd(fd, 0, 1 << 36, 1)
    finally:
        os.close(fd)


def test_engines() -> None:
    for algorithm in Algorithm:
        engines = blockhash.engines(algorithm.kernel_id)
        assert engines[-1] == "portable"
        assert len(set(engines)) == len(engines)
        digest = blockhash.digest(b"x", algorithm.kernel_id)
        assert digest == blockhash.digest(b"x", algorithm.kernel_id, None)


@pytest.mark.parametrize("number", [0, 3, -1, 2**40])
def test_refuses_unknown_algorithms(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        blockhash.digest(b"", number)
    with pytest.raises(ValueError, match=str(number)):
        blockhash.engines(number)


def test_refuses_bad_arguments(file: int) -> None:
    with pytest.raises(ValueError, match="no engine abacus"):
        blockhash.digest(b"", 1, "abacus")
    for call in (
        lambda: blockhash.digest(b""),
        lambda: blockhash.digest(b"", 1, None, None),
        lambda: blockhash.digest("text", 1),
        lambda: blockhash.digest(b"", "1"),
        lambda: blockhash.digest(b"", 1, 1),
        lambda: blockhash.digest_many([b"", None, b""], 1),
        lambda: blockhash.digest_many(None, 1),
        lambda: blockhash.digest_fd("0", 1),
        lambda: blockhash.hash_fd(file, 0, 1),
        lambda: blockhash.hash_fd(file, "0", 1, 1),
    ):
        with pytest.raises(TypeError):
            call()
    for offset, length in ((-1, 1), (0, -1), (2**63 - 1, 1), (0, 2**63 - 1)):
        for function in (blockhash.hash_fd, blockhash.read_fd):
            with pytest.raises(ValueError, match="range"):
                function(file, offset, length, 1)
    with pytest.raises(OverflowError):
        blockhash.hash_fd(file, 2**64, 1, 1)
    with pytest.raises(ValueError, match="descriptor"):
        blockhash.digest_fd(-1, 1)
    with pytest.raises(MemoryError):
        blockhash.read_fd(file, 0, 1 << 60, 1)


def test_reports_failed_reads() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        for call in (
            lambda: blockhash.digest_fd(fd, 1),
            lambda: blockhash.hash_fd(fd, 0, 1, 1),
            lambda: blockhash.read_fd(fd, 0, 1, 1),
        ):
            with pytest.raises(IsADirectoryError):
                call()
    finally:
        os.close(fd)
