"""Space: what each image costs, what images share, what a collection would free.

The words are those of `restic stats`: the restore size of an image is the sum of its files' sizes,
its raw data what the file system has allocated (`st_blocks`) for the objects that it needs. For the
repository the amounts add up:

    unique to one image  +  shared by several  +  kept, of no image  +  unused  =  total raw data

An image here is what a name keeps: the image file and the files in it, and, where it was pulled,
its layers with all they hold, manifest and configuration.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images import names, neededobjects
from cfsrepo.images.names import ImageName
from cfsrepo.store import ocistreams
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.reachability import Marker

_BLOCK: Final = 512  # st_blocks counts these


@dataclass(slots=True)
class ImageUsage:
    """What an image costs."""

    image: ImageName
    names: list[str]
    apparent: int = 0
    """Sizes of all files in it, each once however many names it has."""
    files: int = 0
    """Number of those files."""
    unique: int = 0
    """Allocated for objects that no other image needs."""
    shared: int = 0
    """Allocated for objects that another image needs too."""

    @property
    def disk(self) -> int:
        """Allocated for all objects that it needs."""
        return self.unique + self.shared


@dataclass(slots=True)
class Usage:
    """What a repository costs."""

    images: list[ImageUsage] = field(default_factory=list)
    """Images with a name, a pin or a mount."""
    unique: int = 0
    """Objects of exactly one image."""
    shared: int = 0
    """Objects of several images, each counted once."""
    other: int = 0
    """Objects that are kept for something that is no image."""
    garbage: int = 0
    """Objects that a collection would remove."""
    freed: int = 0
    """What the file system then gives back: garbage that no other repository shares, hash trees."""
    private: int = 0
    """Hash trees, quarantine and the like, in `cfsfuse/`."""
    objects: int = 0
    """Number of objects."""

    @property
    def disk(self) -> int:
        """All objects."""
        return self.unique + self.shared + self.other + self.garbage


def usage(repository: Repository) -> Usage:
    """Measure the repository. Reads streams and image files, and asks for each object's size."""
    marker = Marker(repository)
    # Images first, then what they need, then all objects: a pull may come in between.
    kept = _kept_images(repository, marker.mark().live)
    needs: list[tuple[ImageUsage, set[bytes]]] = []
    count: Counter[bytes] = Counter()
    for image, labels in kept:
        found = ImageUsage(image, labels)
        needed = _needed(repository, marker, image)
        _measure_files(repository, found)
        count.update(needed)
        needs.append((found, needed))
    sizes = _object_sizes(repository)
    live = marker.mark().live
    result = Usage(
        objects=len(sizes),
        private=_private_size(repository),
        freed=collect(repository, dry_run=True).disk,
    )
    for found, needed in needs:
        for digest in needed:
            if count[digest] == 1:
                found.unique += sizes.get(digest, 0)
            else:
                found.shared += sizes.get(digest, 0)
        result.images.append(found)
    for digest, size in sizes.items():
        if count[digest] == 1:
            result.unique += size
        elif count[digest]:
            result.shared += size
        elif digest in live:
            result.other += size
        else:
            result.garbage += size
    return result


def _needed(repository: Repository, marker: Marker, image: ImageName) -> set[bytes]:
    """Digests of all objects that an image needs."""
    streams: dict[str, bytes] = {}
    if image.manifest_digest is not None:
        content_id = ocistreams.MANIFEST_PREFIX + image.manifest_digest
        stream = repository.stream_id(content_id)
        assert stream is not None  # the repository's lock keeps it
        streams[content_id] = stream
    return marker.reach(streams, [bytes.fromhex(image.image_id)]).live


def _kept_images(repository: Repository, live: set[bytes]) -> list[tuple[ImageName, list[str]]]:
    """The images that a collection keeps, each once with all its names."""
    found: dict[tuple[str, str | None], tuple[ImageName, list[str]]] = {}
    images = names.list_images(repository)
    streams = repository.streams()
    for image in images:
        if bytes.fromhex(image.image_id) not in live:
            continue
        manifest = image.manifest_digest
        if manifest is not None and streams[ocistreams.MANIFEST_PREFIX + manifest] not in live:
            # Only the image file is kept, by a name of its own or because it is in use.
            image = ImageName(image.image_id, image.name)
        key = (image.image_id, image.manifest_digest)
        _, labels = found.setdefault(key, (image, []))
        if image.name not in (image.image_id, manifest):
            labels.append(image.name)
    return list(found.values())


def _measure_files(repository: Repository, found: ImageUsage) -> None:
    image_id = found.image.image_id
    with repository.open_image(image_id, verify=False) as data:
        for _, inode, first in neededobjects.regular_files(ErofsImage(data, image_id)):
            if first is None:
                found.files += 1
                found.apparent += inode.size


def _object_sizes(repository: Repository) -> dict[bytes, int]:
    """Allocated bytes of every object. One file under several names outside counts in full."""
    sizes: dict[bytes, int] = {}
    store = repository.objects
    for prefix in store.prefixes():
        with os.scandir(f"{store.path}/{prefix}") as entries:
            for entry in entries:
                try:
                    digest = bytes.fromhex(prefix + entry.name)
                except ValueError:
                    continue
                sizes[digest] = entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    return sizes


def _private_size(repository: Repository) -> int:
    total = 0
    for directory, _, files in os.walk(f"{repository.path}/{PRIVATE_DIRECTORY}"):
        for name in files:
            status = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(status.st_mode):
                total += status.st_blocks * _BLOCK
    return total
