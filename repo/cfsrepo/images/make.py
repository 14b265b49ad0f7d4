"""Making the image of a tree, by either of two makers.

Both give the same bytes: `erofs.writer`, which needs nothing, and composefs's program
`mkcomposefs`, fed with a dump (never with a directory: it forgets hard links on directories).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from enum import StrEnum

from cfsrepo.errors import CfsError, InputError, UsageError, printable
from cfsrepo.formats import fsverity
from cfsrepo.formats.dumpwriter import write_dump
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.tree import Inode, walk

MKCOMPOSEFS = "mkcomposefs"


class Maker(StrEnum):
    """What makes the bytes of an image. All makers give the same bytes, so the same image id."""

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
    # A file, not a pipe: a program that ends early then takes nobody with it by SIGPIPE.
    with tempfile.TemporaryFile() as dump:
        write_dump(
            root, dump.write, min_version=min_version, max_version=max_version, keep_homes=True
        )
        dump.seek(0)
        done = subprocess.run([program, *options, "-", "-"], stdin=dump, capture_output=True)
    if done.returncode:
        said = printable(done.stderr[:1000].strip())
        raise InputError(f"{MKCOMPOSEFS} failed: {said or done.returncode}")
    return done.stdout


def _has_sha512(root: Inode) -> bool:
    return any(inode.digest is not None and len(inode.digest) != 32 for _, inode in walk(root))
