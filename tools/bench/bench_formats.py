"""Dump to image and back, beside composefs's own programs (or cfsctl's of those names)."""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import sys
from collections.abc import Iterator

from measure import BenchError, Contender, Row, Settings, compare, program, scratch_directory

SUBJECT = "formats"
DESCRIPTION = "images from dumps of an operating system, 100,000 and 1,000,000 entries, and back"
QUICK = True
DUMP_TARGET = 2.0

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = os.path.join(CHECKOUT, "tests", "golden", "cs9-x86_64-minimal.dump.gz")


def dump_lines(entries: int) -> Iterator[bytes]:
    """The dump of a real system, in as many copies side by side as it takes.

    Objects are named by digest, as they are today (the dump is from before), and each copy has its
    own, as another system would.
    """
    with gzip.open(SOURCE) as stream:
        root, *lines = stream.read().splitlines()
    yield root
    left = entries - 1
    for copy in range(entries):
        prefix = b"/%03d" % copy
        for line in [prefix + root[1:], *(prefix + line for line in lines)]:
            if not left:
                return
            left -= 1
            fields = line.split(b" ")
            if fields[2].startswith(b"@"):
                fields[8] = prefix + fields[8]
            elif fields[8].endswith(b".file"):
                digest = hashlib.sha256(prefix + fields[8]).hexdigest().encode()
                fields[8], fields[10] = digest[:2] + b"/" + digest[2:], digest
            yield b" ".join(fields)


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    cfs = [sys.executable, "-m", "cfstools"]
    rows: list[Row] = []
    with scratch_directory("formats") as scratch:
        mkcomposefs, info = (_peer(name, scratch) for name in ("mkcomposefs", "composefs-info"))
        dump, image = os.path.join(scratch, "dump"), os.path.join(scratch, "image")
        make = ["--from-file", dump, image]
        for entries in (20_000,) if settings.quick else (100_000, 1_000_000):
            with open(dump, "wb") as file:
                file.writelines(line + b"\n" for line in dump_lines(entries))
            size = f"{entries:,} entries"
            rows += compare(
                SUBJECT,
                f"image of {size}",
                Contender("cfs", lambda: [*cfs, "mkcomposefs", *make]),
                Contender(
                    os.path.basename(os.path.realpath(mkcomposefs)), lambda: [mkcomposefs, *make]
                ),
                settings,
            )
            rows += compare(
                SUBJECT,
                f"dump of {size}",
                Contender("cfs", lambda: quiet([*cfs, "composefs-info", "dump", image])),
                Contender(
                    os.path.basename(os.path.realpath(info)), lambda: quiet([info, "dump", image])
                ),
                settings,
                target=None if settings.quick else DUMP_TARGET,
            )
    return rows


def _peer(name: str, scratch: str) -> str:
    """composefs's program, or cfsctl under that name: it does the same then."""
    try:
        return program(name)
    except BenchError:
        path = os.path.join(scratch, name)
        os.symlink(program("cfsctl"), path)
        return path


def quiet(command: list[str]) -> list[str]:
    """`command` with its output thrown away by the kernel, not read by us."""
    return ["sh", "-c", f"exec {shlex.join(command)} > /dev/null"]
