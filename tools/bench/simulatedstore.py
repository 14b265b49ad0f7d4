#!/usr/bin/env python3
"""A dry collection in a repository whose objects are only names: `simulatedstore.py COUNT`.

COUNT objects are listed, all but each hundredth of them live. No file system is asked for them: it
is measured what a collection itself does for each object, and making the names up.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile

from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import gc
from cfsrepo.upkeep.reachability import Marked, Marker

DEAD = 100  # one object in so many


def digests(prefix: int, count: int) -> list[bytes]:
    """Names of objects below objects/PREFIX, the same always."""
    first = bytes([prefix])
    rests = random.Random(prefix).randbytes(31 * count)  # noqa: S311 - no secrets
    return [first + rests[at : at + 31] for at in range(0, len(rests), 31)]


def main() -> None:
    """Collect, and check that the right number was found dead."""
    each = int(sys.argv[1]) // 256
    dead = -(-each // DEAD)
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "repository")
        with Repository.init(path) as repository:
            for prefix in range(256):
                os.makedirs(os.path.join(path, "objects", f"{prefix:02x}"), exist_ok=True)
            simulate(each)
            found = gc.collect(repository, dry_run=True)
    if found.objects != dead * 256:
        sys.exit(f"{found.objects} dead objects, {dead * 256} expected")


def simulate(each: int) -> None:
    """Pretend that there are `each` objects below each prefix."""
    real_mark, real_listdir, real_stat = Marker.mark, os.listdir, os.stat
    nothing = os.stat(os.devnull)

    def mark(self: Marker) -> Marked:
        marked = real_mark(self)
        for prefix in range(256):
            live = (digest for at, digest in enumerate(digests(prefix, each)) if at % DEAD)
            marked.live.update(live)
        return marked

    def listdir(path: int | str) -> list[str]:
        if isinstance(path, int):
            opened = os.readlink(f"/proc/self/fd/{path}")
            if os.path.basename(os.path.dirname(opened)) == "objects":
                return [digest.hex()[2:] for digest in digests(int(opened[-2:], 16), each)]
        return real_listdir(path)

    def stat(path: str, **options: object) -> os.stat_result:
        return nothing if len(path) == 62 else real_stat(path, **options)  # type: ignore[arg-type]

    Marker.mark = mark  # type: ignore[method-assign]
    os.listdir = listdir  # type: ignore[assignment]
    os.stat = stat  # type: ignore[assignment]


if __name__ == "__main__":
    main()
