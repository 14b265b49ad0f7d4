"""The content of objects against the digests that are their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cfsrepo.errors import NotFoundError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import ObjectStore
from cfsrepo.upkeep.findings import Kind

_SMALL: Final = 64 << 10  # objects below are read in one call


def state(store: ObjectStore, digest: bytes) -> tuple[Kind, str] | None:
    """What is wrong with an object (missing, damaged, unreadable); None when it is good."""
    bad = check_group(store, [digest]).bad
    return bad[0][1:] if bad else None


@dataclass(slots=True)
class Group:
    """What a group of objects was found to be."""

    size: int = 0
    """Bytes of them."""
    bad: list[tuple[bytes, Kind, str]] = field(default_factory=list)
    """Digest, what is wrong, detail."""
    other_size: list[bytes] = field(default_factory=list)
    """Digests of those that have another size than was expected, whatever their content."""


def check_group(
    store: ObjectStore,
    digests: list[bytes],
    *,
    require: bool = False,
    deep: bool = False,
    expected: Mapping[bytes, int] = MappingProxyType({}),
) -> Group:
    """Check objects: their content, with `require` that the kernel protects it.

    What it protects is measured by it; with `deep` it is read too. `expected`: sizes in bytes.
    """
    algorithm = store.algorithm
    found = Group()
    measured_here = True  # until a file system says that it has no fs-verity at all
    for digest in digests:
        try:
            fd = store.open(digest)
        except NotFoundError:
            found.bad.append((digest, Kind.MISSING, ""))
            continue
        except OSError as error:
            found.bad.append((digest, Kind.UNREADABLE, error.strerror or ""))
            continue
        try:
            measured = kernelverity.measure(fd, algorithm) if measured_here else None
            if measured is None:
                measured_here = require
                if require:
                    found.bad.append((digest, Kind.UNPROTECTED, ""))
                size, content = _compute(fd, algorithm)
            else:
                size, content = os.fstat(fd).st_size, measured
                if deep:
                    fsverity.digest_fd(fd, algorithm)  # a block that is found wrong is an EIO
            found.size += size
            if content != digest:
                detail = f"its content has the digest {content.hex()}"
                found.bad.append((digest, Kind.DAMAGED, detail))
            if expected.get(digest, size) != size:
                found.other_size.append(digest)
        except OSError as error:
            found.bad.append((digest, Kind.UNREADABLE, error.strerror or ""))
        finally:
            os.close(fd)
    return found


def _compute(fd: int, algorithm: Algorithm) -> tuple[int, bytes]:
    """Size and digest of a file."""
    data = os.read(fd, _SMALL)
    if len(data) < _SMALL:  # most objects: no need to ask for the size
        return len(data), fsverity.digest(data, algorithm)
    size = os.fstat(fd).st_size
    return size, fsverity.digest_fd(fd, algorithm)
