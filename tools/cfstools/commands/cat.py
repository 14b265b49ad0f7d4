"""`cfs cat IMAGE PATH...`: print files of an image, without mounting it."""

from __future__ import annotations

import os
import stat
import sys

from cfsrepo.errors import NotFoundError, SystemFailure, UsageError, printable
from cfsrepo.images.contents import Buffer
from cfsrepo.images.verified import ObjectDirectory
from cfsrepo.images.view import ImageView
from cfstools import imagelookup
from cfstools.options import Arguments

_CHUNK = 1 << 20


def run(args: Arguments) -> int:
    source = imagelookup.find(args)
    sys.stdout.flush()
    with imagelookup.opened(source) as image:
        view = ImageView(image, ObjectDirectory(source.object_dir, merkle=source.merkle_dir))
        for path in args.path:
            _cat(view, os.fsencode(path))
    return 0


def _cat(view: ImageView, path: bytes) -> None:
    nid = view.follow(path)
    name = f"{view.image.name}: {printable(path)}"
    mode = view.attributes(nid).mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a special file"
        raise UsageError(f"{name}: {kind}, not a regular file")
    try:
        content = view.open(nid)
        try:
            offset = 0
            while chunk := content.read(offset, _CHUNK):
                _write(chunk)
                offset += len(chunk)
        finally:
            content.close()
    except BrokenPipeError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"{name}: {error.strerror}") from error
    except OSError as error:
        raise SystemFailure(f"{name}: {error.strerror}") from error


def _write(chunk: Buffer) -> None:
    written = 0
    with memoryview(chunk) as view:
        while written < len(view):
            written += os.write(1, view[written:])
