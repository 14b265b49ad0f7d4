"""Between trees and images: a tree as an image, by either maker, and an image as a tree or a dump.

Two makers give the same bytes: `erofs.writer`, which needs nothing, and composefs's program
`mkcomposefs`, fed with a dump (never with a directory: it forgets hard links on directories).
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum

from cfsrepo.errors import CfsError, InputError, UsageError, printable
from cfsrepo.formats import fsverity
from cfsrepo.formats.dumpwriter import LineFormat, write_dump
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.nodes import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.escape import escape
from cfsrepo.formats.tree import Inode, paused_gc

MKCOMPOSEFS = "mkcomposefs"


class Maker(StrEnum):
    """Who makes the bytes of an image. They are the same; so an image's id is, whoever made it."""

    AUTO = "auto"  # the builtin one: nothing to install, no process, sha512 too
    BUILTIN = "builtin"
    MKCOMPOSEFS = "mkcomposefs"
    BOTH = "both"  # and compare them


def make_image(
    root: Inode, *, maker: Maker = Maker.AUTO, min_version: int = 1, max_version: int = 1
) -> bytes:
    """The image of `root`, of version `min_version`, up to `max_version` where the tree needs it.

    Raises InputError for a tree that no image can hold, UsageError when `mkcomposefs` is asked for
    and not installed (or cannot do it), CfsError when the two makers disagree.
    """
    if maker is Maker.MKCOMPOSEFS:
        return _run_mkcomposefs(root, min_version, max_version)
    parts: list[bytes] = []
    write_image(root, parts.append, min_version=min_version, max_version=max_version)
    image = b"".join(parts)
    if maker is Maker.BOTH:
        parts.clear()
        theirs = fsverity.digest(_run_mkcomposefs(root, min_version, max_version))
        ours = fsverity.digest(image)
        if ours != theirs:
            raise CfsError(
                f"the builtin maker and {MKCOMPOSEFS} disagree: {ours.hex()}, {theirs.hex()}",
                hint="one of the two has a defect; keep the tree",
            )
    return image


def _run_mkcomposefs(root: Inode, min_version: int, max_version: int) -> bytes:
    program = shutil.which(MKCOMPOSEFS)
    if program is None:
        raise UsageError(
            f"{MKCOMPOSEFS} is not installed", hint="install composefs, or use the builtin maker"
        )
    if max_version > layout.VERSION_MAX:
        raise UsageError(
            f"{MKCOMPOSEFS} knows no images of version {max_version}", hint="use the builtin maker"
        )
    if _has_sha512(root):
        raise UsageError(f"{MKCOMPOSEFS} knows no sha512 digests", hint="use the builtin maker")
    options = [f"--min-version={min_version}", f"--max-version={max_version}", "--from-file"]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            [program, *options, "-", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                # It reads all of the dump before it writes: no deadlock.
                with process.stdin as stdin:
                    write_dump(
                        root,
                        stdin.write,
                        min_version=min_version,
                        max_version=max_version,
                        keep_homes=True,
                    )
            except BrokenPipeError:
                process.wait()  # it says on stderr why
            except BaseException:
                process.kill()
                raise
            image = process.stdout.read()
        if process.returncode:
            errors.seek(0)
            said = printable(errors.read(1000).strip())
            raise InputError(f"{MKCOMPOSEFS} failed: {said or process.returncode}")
    return image


def _has_sha512(root: Inode) -> bool:
    stack = [root]
    while stack:
        inode = stack.pop()
        if inode.entries:
            stack.extend(inode.entries.values())
        elif inode.digest is not None and len(inode.digest) != 32:
            return True
    return False


@contextmanager
def open_image(path: str) -> Iterator[ErofsImage]:
    """The image file `path`, mapped for the length of a `with` block (read, where it is a pipe).

    Raises InputError for what is no image of composefs.
    """
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        if stat.S_ISREG(info.st_mode) and info.st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield ErofsImage(data, path)
        else:
            yield ErofsImage(file.read(), path)


def load_tree(image: ErofsImage) -> Inode:
    """The tree that `image` was made from.

    Sizes of directories are those of the image. Raises InputError where the image is damaged.
    """
    with paused_gc():
        walk = ImageWalk(image)
        above: list[tuple[bytes, dict[bytes, Inode]]] = []  # directories on the way to the entry
        linked: dict[int, Inode] = {}  # inodes that may have several names, by nid
        root: Inode | None = None
        for path, info, first in walk.entries():
            parent, _, name = path.rpartition(b"/")
            while above and above[-1][0] != parent:
                above.pop()
            if first is None:
                node = walk.node(info)
                inode = Inode(node.mode)
                inode.uid, inode.gid, inode.rdev = info.uid, info.gid, info.rdev
                inode.mtime_sec, inode.mtime_nsec = info.mtime_sec, info.mtime_nsec
                inode.nlink = info.nlink
                inode.size = node.size
                inode.payload = node.payload
                inode.content = node.content
                inode.digest = node.digest
                if node.xattrs:
                    inode.xattrs = dict(node.xattrs)
                if info.nlink != 1:
                    linked[info.nid] = inode
            else:
                known = linked.get(info.nid)
                if known is None:  # its link count is wrong
                    assert root is not None
                    known = linked[info.nid] = _at(root, first)
                inode = known
            if above:
                above[-1][1][name] = inode
            else:
                root = inode
            if stat.S_ISDIR(inode.mode):
                inode.entries = {}
                above.append((path, inode.entries))
        assert root is not None
        return root


def _at(root: Inode, path: bytes) -> Inode:
    """The inode at `path` of a tree that has it."""
    inode = root
    for name in path.split(b"/")[1:]:
        assert inode.entries is not None
        inode = inode.entries[name]
    return inode


def dump_image(
    image: ErofsImage,
    out: Callable[[bytes], object],
    toplevel: Collection[bytes] | None = None,
) -> None:
    """Give the dump of `image` to `out`, in pieces, as `composefs-info dump` prints it.

    `toplevel`: of what is in the root only these names. Memory does not grow with the image but for
    a bit an inode and the paths of hard-linked ones. Raises InputError where the image is damaged.
    """
    walk = ImageWalk(image)
    form = LineFormat()
    lines: list[bytes] = []
    pending = 0
    for path, info, first in walk.entries(toplevel):
        mode, size, payload, content, digest, xattrs = walk.node(info, again=first is not None)
        line = form.line(
            escape(path or b"/"), mode, size, info.nlink, info.uid, info.gid, info.rdev,
            info.mtime_sec, info.mtime_nsec, payload, content, digest,
            form.xattrs_of(xattrs) if xattrs else b"", None if first is None else escape(first),
        )  # fmt: skip
        lines.append(line)
        pending += len(line)
        if pending > 1 << 18:
            out(b"".join(lines))
            lines.clear()
            pending = 0
    out(b"".join(lines))
