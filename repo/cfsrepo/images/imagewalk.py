"""Walking a whole image: every path, and the objects that its files need.

An image may be hostile: a directory is entered once only, whatever its entries say, so a walk ends
after at most as many steps as the image has directory entries.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store.objects import digest_from_path


def walk(image: ErofsImage, start: bytes = b"/") -> Iterator[tuple[bytes, int, int]]:
    """Every (path, nid, file type as layout.FT_*) from the directory `start` on, itself first.

    Directories before what is in them, names in byte order. Nothing where there is no `start`.
    """
    top = image.lookup_path(start)
    if top is None:
        return
    path = b"/" + b"/".join(part for part in start.split(b"/") if part not in (b"", b"."))
    if not stat.S_ISDIR(image.inode(top).mode):
        yield path, top, layout.FILE_TYPES[stat.S_IFMT(image.inode(top).mode)]
        return
    yield path, top, layout.FT_DIR
    entered = {top}
    prefix = path.rstrip(b"/")
    stack = [(prefix, image.readdir(top))]
    while stack:
        prefix, entries = stack[-1]
        for _, name, nid, kind in entries:
            if name in (b".", b".."):
                continue
            child = prefix + b"/" + name
            if kind == layout.FT_DIR:
                if nid in entered:
                    continue
                entered.add(nid)
                yield child, nid, kind
                stack.append((child, image.readdir(nid)))
                break
            yield child, nid, kind
        else:
            stack.pop()


def object_of(image: ErofsImage, inode: InodeInfo, algorithm: Algorithm) -> bytes | None:
    """The object with the content of a regular file; None for content inside the image."""
    backing = image.backing_of(inode)
    if backing is None:
        return None
    if backing.digest is not None:
        return backing.digest
    return digest_from_path(backing.path.decode("ascii", "replace"), algorithm)


def needed_objects(image: ErofsImage, algorithm: Algorithm) -> dict[bytes, int]:
    """The objects that the files of an image need: digest -> size as the image says it.

    `InputError` where the image is damaged.
    """
    found: dict[bytes, int] = {}
    seen: set[int] = set()
    for _, nid, kind in walk(image):
        if kind == layout.FT_REG and nid not in seen:
            seen.add(nid)
            inode = image.inode(nid)
            digest = object_of(image, inode, algorithm)
            if digest is not None:
                found[digest] = inode.size
    return found


def paths_of(
    image: ErofsImage, wanted: set[bytes], algorithm: Algorithm
) -> dict[bytes, list[bytes]]:
    """The paths of the files that need the objects `wanted`."""
    found: dict[bytes, list[bytes]] = {}
    objects: dict[int, bytes | None] = {}
    for path, nid, kind in walk(image):
        if kind != layout.FT_REG:
            continue
        if nid not in objects:
            objects[nid] = object_of(image, image.inode(nid), algorithm)
        digest = objects[nid]
        if digest in wanted:
            found.setdefault(digest, []).append(path)
    return found
