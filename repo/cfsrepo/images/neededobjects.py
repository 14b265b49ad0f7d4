"""The objects that the files of an image need.

All raise `InputError` where the image is damaged.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cfsrepo.formats.erofs.imagewalk import Entry, ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store.objects import digest_from_path


def regular_files(image: ErofsImage) -> Iterator[Entry]:
    """Every regular file, under each of its names."""
    return (entry for entry in ImageWalk(image).entries() if stat.S_ISREG(entry.info.mode))


def object_of(image: ErofsImage, inode: InodeInfo, algorithm: Algorithm) -> bytes | None:
    """The object with the content of a regular file; None for content inside the image."""
    backing = image.backing_of(inode)
    if backing is None:
        return None
    if backing.digest is not None:
        return backing.digest
    return digest_from_path(backing.path.decode("ascii", "replace"), algorithm)


def needed_objects(image: ErofsImage, algorithm: Algorithm) -> dict[bytes, int]:
    """The objects that the files of an image need: digest -> size as the image says it."""
    found: dict[bytes, int] = {}
    for _, inode, first in regular_files(image):
        if first is None:
            digest = object_of(image, inode, algorithm)
            if digest is not None:
                found[digest] = inode.size
    return found


def paths_of(
    image: ErofsImage, wanted: set[bytes], algorithm: Algorithm
) -> dict[bytes, list[bytes]]:
    """The paths of the files that need the objects `wanted`."""
    found: dict[bytes, list[bytes]] = {}
    for path, inode, _ in regular_files(image):
        digest = object_of(image, inode, algorithm)
        if digest in wanted:
            found.setdefault(digest, []).append(path)
    return found
