"""A digest by several threads or processes is the digest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import paralleldigest
from tests.fuse.fuse_helpers import noise

MIB = 1 << 20


@contextmanager
def written(tmp_path: Path, data: bytes) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def pretend_processors(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(number)))


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize(
    "size",
    [0, 1, 4096, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 8 * MIB, 8 * MIB + 4097, 13 * MIB + 5],
)
def test_threads_find_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, algorithm: Algorithm
) -> None:
    monkeypatch.setattr(paralleldigest, "scales", lambda _: True)
    data = noise(size)
    expected = fsverity.digest(data, algorithm)
    with written(tmp_path, data) as fd:
        for processors in (1, 2, 3, 8):
            pretend_processors(monkeypatch, processors)
            assert paralleldigest.digest_fd(fd, algorithm) == expected


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", [0, 1, 4096, 8193, 3 * MIB, 3 * MIB + 4097])
def test_processes_find_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, algorithm: Algorithm
) -> None:
    data = noise(size)
    expected = fsverity.digest(data, algorithm)
    monkeypatch.setattr(paralleldigest, "scales", lambda _: False)
    monkeypatch.setattr(paralleldigest, "PROCESSES_MIN", 4096)
    with written(tmp_path, data) as fd:
        for processors in (1, 2, 3, 8):
            pretend_processors(monkeypatch, processors)
            assert paralleldigest.digest_fd(fd, algorithm) == expected


def test_a_failure_in_any_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_processors(monkeypatch, 4)
    monkeypatch.setattr(paralleldigest, "scales", lambda _: True)
    before = threading.active_count()
    fd = os.memfd_create("large")
    try:
        os.ftruncate(fd, 64 * MIB)
        real = fsverity.hash_range

        def failing(fd: int, offset: int, length: int, algorithm: Algorithm) -> bytes:
            if offset == 40 * MIB:
                raise OSError(5, "damaged")
            return real(fd, offset, length, algorithm)

        monkeypatch.setattr(fsverity, "hash_range", failing)
        with pytest.raises(OSError, match="damaged"):
            paralleldigest.digest_fd(fd, Algorithm.SHA256)
    finally:
        os.close(fd)
    assert threading.active_count() == before


def test_without_more_threads_one_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_processors(monkeypatch, 4)
    monkeypatch.setattr(paralleldigest, "scales", lambda _: True)

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    fd = os.memfd_create("large")
    try:
        os.ftruncate(fd, 9 * MIB)
        expected = fsverity.digest(bytes(9 * MIB))
        assert paralleldigest.digest_fd(fd, Algorithm.SHA256) == expected
    finally:
        os.close(fd)
