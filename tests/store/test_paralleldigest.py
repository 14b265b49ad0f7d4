"""A digest by several processes is the digest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import paralleldigest
from tests.fuse.fuse_helpers import noise


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", [0, 1, 4096, 8193, 3 << 20, (3 << 20) + 4097])
def test_it_is_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, algorithm: Algorithm
) -> None:
    data = noise(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = fsverity.digest(data, algorithm)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert paralleldigest.digest_fd(fd, algorithm) == expected
        for processors in (1, 2, 3, 8):
            monkeypatch.setattr(paralleldigest, "PARALLEL_MIN", 4096)
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
            assert paralleldigest.digest_fd(fd, algorithm) == expected
    finally:
        os.close(fd)
