"""fs-verity digests of a file in the page cache, beside fsverity(1), hashlib and ourselves."""

from __future__ import annotations

import os
import sys

from measure import MIB, Contender, Row, Settings, compare, program, scratch_directory

SUBJECT = "hash"
DESCRIPTION = "fs-verity digest of a file of 1 GiB in the page cache, four times in each run"
QUICK = True

HERE = os.path.dirname(os.path.abspath(__file__))
TIMES = 4  # so that starting the interpreter does not count
IN_PARALLEL = """
import os, sys
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import paralleldigest
for name in sys.argv[1:]:
    fd = os.open(name, os.O_RDONLY)
    paralleldigest.digest_fd(fd, Algorithm.SHA256)
    os.close(fd)
"""


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    fsverity = program("fsverity")
    with scratch_directory("hash") as scratch:
        path = os.path.join(scratch, "file")
        size = (256 if settings.quick else 1024) * MIB
        with open(path, "wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
        files = [path] * TIMES
        floors = [sys.executable, os.path.join(HERE, "floors.py")]
        one = Contender("cfs, one thread", lambda: [*floors, "digest", *files])
        hashlib = ["env", "CFS_BLOCKHASH=hashlib", *floors, "digest", *files]
        read = Contender("read", lambda: [*floors, "read", *files])
        peer = Contender("fsverity digest", lambda: [fsverity, "digest", *files])
        plain = Contender("cfs, by hashlib", lambda: hashlib)
        every = Contender("cfs", lambda: [sys.executable, "-c", IN_PARALLEL, *files])
        # No targets in a quick run: the interpreter's start is too much of it.
        half, threads = (None, None) if settings.quick else (0.5, 1 / 1.8)
        return [
            *compare(SUBJECT, "one thread", one, peer, settings, floor=read),
            *compare(SUBJECT, "one thread", one, plain, settings, target=half, cpu_target=half),
            *compare(SUBJECT, "all processors", every, one, settings, target=threads),
        ]
