"""`cfs composefs-info`: composefs's program of that name, argument for argument.

Also the program itself, when `cfs` is called `composefs-info`.
"""

from __future__ import annotations

import getopt
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from cfsrepo.errors import UsageError
from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.escape import escape
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images.dump import dump_image
from cfsrepo.images.load import open_image
from cfsrepo.store import kernelverity

USAGE = "usage: {prog} [--basedir=path] [ls|objects|dump|missing-objects|measure-file] IMAGES...\n"

_FLUSH = 4096
_EXCEPT_SPACE = re.compile(rb"[^ ]+")


def main(argv: list[str], prog: str = "composefs-info") -> int:
    """Run with the arguments of the C tool. Raises CfsError and OSError."""
    usage = USAGE.format(prog=prog)
    try:
        parsed, words = getopt.gnu_getopt(argv, "", ["basedir=", "filter=", "help"])
    except getopt.GetoptError as error:
        sys.stderr.write(f"{prog}: {error.msg}\n{usage}")
        return 1
    base: str | None = None
    names: list[bytes] | None = None
    for option, value in parsed:
        if option == "--help":
            sys.stdout.write(usage)
            return 0
        if option == "--basedir":
            base = value
        else:
            if "/" in value:
                raise UsageError(f"Filter must be a single name: {value}")
            names = [*(names or []), os.fsencode(value)]
    if not words:
        sys.stderr.write(f"No command specified\n{usage}")
        return 1
    command, *files = words
    if command == "measure-file":
        if not files:
            sys.stderr.write(f"No files specified\n{usage}")
            return 1
        for file in files:
            _measure(file)
        return 0
    if command not in ("ls", "dump", "objects", "missing-objects"):
        raise UsageError(f"Unknown command '{command}'")
    if not files:
        sys.stderr.write(f"No image path specified\n{usage}")
        return 1
    with _directory(base) as base_fd:
        _show(command, files, names, base_fd)
    sys.stdout.buffer.flush()
    return 0


def _show(
    command: str, files: list[str], names: Collection[bytes] | None, base_fd: int | None
) -> None:
    out = sys.stdout.buffer.write
    objects: set[bytes] = set()
    for file in files:
        with open_image(file) as image:
            if command == "ls":
                _list(image, names, out)
            elif command == "dump":
                dump_image(image, out, names)
            else:
                objects.update(_objects(image, names))
    if command == "missing-objects" and base_fd is not None:
        objects = {path for path in objects if not _exists(base_fd, path)}
    for path in sorted(objects):
        out(path + b"\n")


@contextmanager
def _directory(path: str | None) -> Iterator[int | None]:
    """The directory of objects; None where none is given: then every object is missing."""
    if path is None:
        yield None
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _exists(base_fd: int, path: bytes) -> bool:
    try:
        os.stat(path.lstrip(b"/") or b".", dir_fd=base_fd)
    except OSError:
        return False
    return True


def _objects(image: ErofsImage, names: Collection[bytes] | None) -> Iterator[bytes]:
    walk = ImageWalk(image)
    for entry in walk.entries(toplevel=names):
        if entry.first is None and stat.S_ISREG(entry.info.mode):
            node = walk.node(entry.info)
            if node.payload is not None and stat.S_ISREG(node.mode):
                yield node.payload


def _list(
    image: ErofsImage, names: Collection[bytes] | None, out: Callable[[bytes], object]
) -> None:
    """A line a name, but none for the root; hard links after the first name bare."""
    walk = ImageWalk(image)
    lines: list[bytes] = []
    for entry in walk.entries(toplevel=names):
        if not entry.path:
            continue
        line = _EXCEPT_SPACE.sub(lambda match: escape(match[0]), entry.path)
        if entry.first is None:
            mode, _, payload, *_ = walk.node(entry.info)
            if stat.S_ISDIR(mode):
                line += b"/\t"
            elif stat.S_ISLNK(mode):
                line += b"\t-> " + escape(payload or b"")
            elif stat.S_ISREG(mode) and payload is not None:
                line += b"\t@ " + escape(payload)
        lines.append(line)
        if len(lines) >= _FLUSH:
            out(b"\n".join(lines) + b"\n")
            lines.clear()
    if lines:
        out(b"\n".join(lines) + b"\n")


def _measure(path: str) -> None:
    """Print the fs-verity digest of a file: the kernel's where it has one, else computed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        digest = kernelverity.measure(fd, Algorithm.SHA256) or fsverity.digest_fd(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)
    sys.stdout.write(f"{digest.hex()}\n")
