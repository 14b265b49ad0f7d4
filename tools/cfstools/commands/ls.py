"""`cfs ls IMAGE [PATH]`: list a directory or a file of an image, without mounting it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from cfsrepo.errors import printable
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images.verified import ObjectDirectory
from cfsrepo.images.view import ImageView
from cfstools import imagelookup
from cfstools.options import Arguments
from cfstools.render.jsontext import listing

File = tuple[bytes, int]  # as it is shown, and its nid


def run(args: Arguments) -> int:
    source = imagelookup.find(args)
    with imagelookup.opened(source) as image:
        view = ImageView(image, ObjectDirectory(source.object_dir, merkle=source.merkle_dir))
        path = os.fsencode(args.path)
        nid = view.resolve(path)
        itself = args.directory or not stat.S_ISDIR(view.attributes(nid).mode)
        files = iter([(path, nid)]) if itself else _below(image, nid, path, args.recursive)
        line = _long if args.long else _short
        with listing(args.json, partial(_record, view), partial(line, view)) as show:
            for file in files:
                show(file)
    return 0


def _below(image: ErofsImage, nid: int, path: bytes, recursive: bool) -> Iterator[File]:
    """The files in a directory, or all below it with their paths."""
    base = path.rstrip(b"/")
    walk = ImageWalk(image, mounted=True)
    pending = [(base, image.inode(nid))]
    while pending:
        parent, directory = pending.pop()
        below = []
        for name, inode in walk.children(directory):
            shown = parent + b"/" + name if recursive else name
            yield shown, inode.nid
            if recursive and stat.S_ISDIR(inode.mode):
                below.append((shown, inode))
        pending.extend(reversed(below))


def _short(view: ImageView, file: File) -> str:
    return printable(file[0])


def _long(view: ImageView, file: File) -> str:
    name, nid = file
    inode = view.attributes(nid)
    kind = stat.S_IFMT(inode.mode)
    size = str(inode.size)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        size = f"{os.major(inode.rdev)},{os.minor(inode.rdev):>4}"
    target = f" -> {printable(view.readlink(nid))}" if kind == stat.S_IFLNK else ""
    return (
        f"{stat.filemode(inode.mode)} {inode.nlink:>3} {inode.uid:>5} {inode.gid:>5} "
        f"{size:>10} {_time(inode.mtime_sec)} {printable(name)}{target}"
    )


def _time(seconds: int) -> str:
    """UTC: an image shows the same everywhere. Years that C cannot name are shown as seconds."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"


def _record(view: ImageView, file: File) -> dict[str, Any]:
    name, nid = file
    inode = view.attributes(nid)
    record: dict[str, Any] = {
        "name": os.fsdecode(name),
        "mode": f"{inode.mode:06o}",
        "nlink": inode.nlink,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime": f"{inode.mtime_sec}.{inode.mtime_nsec:09}",
        "inode": nid,
    }
    kind = stat.S_IFMT(inode.mode)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        record["device"] = [os.major(inode.rdev), os.minor(inode.rdev)]
    elif kind == stat.S_IFLNK:
        record["target"] = os.fsdecode(view.readlink(nid))
    elif kind == stat.S_IFREG:
        backing = view.image.backing(nid)
        if backing is not None:
            record["object"] = os.fsdecode(backing.path)
            record["digest"] = None if backing.digest is None else backing.digest.hex()
    xattrs = view.xattrs(nid, trusted=True)
    if xattrs:
        record["xattrs"] = {os.fsdecode(key): value.hex() for key, value in sorted(xattrs.items())}
    return record
