"""The content of objects against the digests that are their names."""

from __future__ import annotations

import os
from typing import Final

from cfsrepo.errors import NotFoundError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import ObjectStore
from cfsrepo.upkeep.findings import Kind

_SMALL: Final = 1 << 20  # objects up to here are read whole


def state(store: ObjectStore, digest: bytes) -> tuple[Kind, str] | None:
    """What is wrong with an object (missing, damaged, unreadable); None when it is good."""
    _, bad = check_group(store, [digest], False, False)
    return bad[0][1:] if bad else None


def check_group(
    store: ObjectStore, digests: list[bytes], require: bool, deep: bool
) -> tuple[int, list[tuple[bytes, Kind, str]]]:
    """Bytes checked, and what is wrong with which object."""
    algorithm = store.algorithm
    total = 0
    bad: list[tuple[bytes, Kind, str]] = []
    measured_here = True  # until a file system says that it has no fs-verity at all
    for digest in digests:
        try:
            fd = store.open(digest)
        except NotFoundError:
            bad.append((digest, Kind.MISSING, ""))
            continue
        except OSError as error:
            bad.append((digest, Kind.UNREADABLE, error.strerror or ""))
            continue
        try:
            size = os.fstat(fd).st_size
            total += size
            measured = kernelverity.measure(fd, algorithm) if measured_here else None
            if measured is None:
                measured_here = require
                if require:
                    bad.append((digest, Kind.UNPROTECTED, ""))
            if measured is not None and deep:
                fsverity.digest_fd(fd, algorithm)  # a block that the kernel finds wrong is an EIO
            found = measured or _compute(fd, size, algorithm)
            if found != digest:
                bad.append((digest, Kind.DAMAGED, f"its content has the digest {found.hex()}"))
        except OSError as error:
            bad.append((digest, Kind.UNREADABLE, error.strerror or ""))
        finally:
            os.close(fd)
    return total, bad


def _compute(fd: int, size: int, algorithm: Algorithm) -> bytes:
    if size <= _SMALL:
        data = os.read(fd, size + 1)
        if len(data) == size:
            return fsverity.digest(data, algorithm)
    return fsverity.digest_fd(fd, algorithm)
