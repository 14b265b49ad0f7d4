"""An image as composefs-dump(5) text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from cfsrepo.formats.dumpwriter import LineFormat
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.escape import escape

_PIECE: Final = 1 << 18  # bytes of text that are given out at a time


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
    for path, info, first in walk.entries(toplevel=toplevel):
        mode, size, payload, content, digest, xattrs = walk.node(info, again=first is not None)
        _, _, _, uid, gid, rdev, _, nlink, sec, nsec, *_ = info
        line = form.line(
            escape(path or b"/"), mode, size, nlink, uid, gid, rdev, sec, nsec,
            payload, content, digest, form.xattrs_of(xattrs) if xattrs else b"",
            None if first is None else escape(first),
        )  # fmt: skip
        lines.append(line)
        pending += len(line)
        if pending > _PIECE:
            out(b"".join(lines))
            lines.clear()
            pending = 0
    out(b"".join(lines))
