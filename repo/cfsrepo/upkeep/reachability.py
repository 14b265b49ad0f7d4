"""What a repository must keep: everything that can be reached from its names and from what is used.

Roots are `streams/refs`, `images/refs`, live pins, and images that are mounted by others: by the
kernel, here or in another mount namespace, or by FUSE servers of cfsctl. From a stream everything
in its two reference arrays is reached: the objects, and the streams and images that it names. From
an image file its files' objects are reached; an image that a stream names is not read for that,
since the streams of its layers reach the same objects (a collection by cfsctl relies on that too).

No object's content is read but that of streams and of images that no stream names. Each is checked
against its digest first: references in a damaged one would be wrong, and what it needs would go.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError, RepositoryError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images import names, neededobjects
from cfsrepo.store import ocistreams, pins
from cfsrepo.store.repository import Repository
from cfsrepo.system import mounttable

_OVERLAY_SOURCE: Final = b"composefs"
_SELF_FD: Final = b"/proc/"
_SERVING: Final = b"--internal-fuse-serve"  # how cfsctl calls itself to serve a mount


@dataclass(slots=True)
class Marked:
    """The result of marking: digests to keep, and why some that nothing names are kept."""

    live: set[bytes]
    """Digests of all objects to keep."""
    streams: set[bytes]
    """Those of them that are streams."""
    kept: dict[str, list[str]] = field(default_factory=dict)
    """Image id -> reasons beside names: pins, mounts."""


class Marker:
    """Marks a repository. What it has read it remembers, so that marking again costs little."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        # digest of a stream -> (its objects, what it names: key -> digest)
        self._streams: dict[bytes, tuple[list[bytes], dict[str, bytes]]] = {}
        self._images: dict[bytes, set[bytes]] = {}

    def mark(self) -> Marked:
        """Follow all roots as they are now. The caller holds a lock of the repository.

        `RepositoryError` where a root or what it reaches is missing or damaged: a collection then
        could remove what a repair needs.
        """
        repository = self._repository
        streams = repository.streams()
        images = repository.images()
        marked = Marked(set(), set())
        for name, content_id in sorted(repository.stream_refs().items()):
            if content_id not in streams:
                raise _broken(f"streams/refs/{name}", f"there is no stream {content_id}")
            self._mark_stream(streams[content_id], content_id, marked)
        for name, image_id in sorted(repository.image_refs().items()):
            if image_id not in images:
                raise _broken(f"images/refs/{name}", f"there is no image {image_id}")
            self._mark_image(images[image_id], marked)
        marked.kept = self.used(images)
        for image_id in marked.kept:
            if (digest := images[image_id]) not in marked.live:
                self._mark_image(digest, marked)
        return marked

    def reach(self, streams: dict[str, bytes], images: Iterable[bytes]) -> Marked:
        """What these streams (name -> digest) and image files (digests) need, and nothing else."""
        marked = Marked(set(), set())
        for name, digest in streams.items():
            self._mark_stream(digest, name, marked)
        for digest in images:
            self._mark_image(digest, marked)
        return marked

    def _mark_stream(self, digest: bytes, name: str, marked: Marked) -> None:
        """Mark a stream and all it reaches. Depth is bounded by nothing but memory."""
        pending = [(digest, name)]
        while pending:
            digest, name = pending.pop()
            if digest in marked.streams:
                continue
            marked.streams.add(digest)
            marked.live.add(digest)
            objects, named = self._read_stream(digest, name)
            marked.live.update(objects)
            for key, target in named.items():
                if key.startswith(ocistreams.IMAGE_REF_PREFIX):
                    marked.live.add(target)
                else:
                    pending.append((target, f"{key} of {name}"))

    def _read_stream(self, digest: bytes, name: str) -> tuple[list[bytes], dict[str, bytes]]:
        if (found := self._streams.get(digest)) is None:
            try:
                stream = self._repository.read_stream(digest, name)
            except NotFoundError as error:
                raise _broken(name, str(error)) from error
            found = self._streams[digest] = (stream.object_refs, stream.named_refs)
        return found

    def _mark_image(self, digest: bytes, marked: Marked) -> None:
        """Mark an image file and the objects of its files."""
        marked.live.add(digest)
        if (objects := self._images.get(digest)) is None:
            image_id = digest.hex()
            try:
                with self._repository.open_image(image_id) as data:
                    image = ErofsImage(data, image_id)
                    objects = set(neededobjects.needed_objects(image, self._repository.algorithm))
            except CfsError as error:
                raise _broken(f"images/{image_id}", str(error)) from error
            self._images[digest] = objects
        marked.live |= objects

    def used(self, images: dict[str, bytes]) -> dict[str, list[str]]:
        """Images in use: id -> reasons."""
        used: dict[str, list[str]] = {}
        for pin in pins.live(self._repository):
            if pin.image_id in images:
                used.setdefault(pin.image_id, []).append(pin.describe())
        for image_id, mount_point in mounted_images(self._repository, images):
            used.setdefault(image_id, []).append(f"mounted at {mount_point}")
        for pid in serving_processes(self._repository):
            # Which image it serves, it does not say.
            for image_id in images:
                used.setdefault(image_id, []).append(f"perhaps served by cfsctl (process {pid})")
        return used


def mounted_images(repository: Repository, images: dict[str, bytes]) -> list[tuple[str, str]]:
    """Images of the repository that the kernel has mounted: (image id, mount point).

    The mount's source says the image: `composefs:ID` or `composefs:NAME`. A composefs mount that
    does not say it, and whose data may be this repository's, counts for all images: to keep too
    much is the only safe answer.
    """
    found: list[tuple[str, str]] = []
    own = os.fsencode(os.path.realpath(repository.objects.path))
    for mount in mounttable.read_all()[0]:
        if mount.fstype != "overlay" or not mount.source.startswith(_OVERLAY_SOURCE):
            continue
        point = os.fsdecode(mount.mount_point)
        name = os.fsdecode(mount.source.partition(b":")[2])
        if name in images:
            found.append((name, point))
        elif not _can_be_ours(mount, own):
            continue
        elif name and (image_id := _resolve(repository, name)) is not None:
            found.append((image_id, point))
        elif not name or not _is_id(name, repository):
            found += [(image_id, f"{point}, perhaps") for image_id in images]
    return found


def serving_processes(repository: Repository) -> list[int]:
    """Processes of cfsctl that serve an image of the repository by FUSE.

    They hold no lock, and their mounts say nothing of them; they have the object directory open.
    """
    if not os.path.isdir(repository.objects.path):
        return []
    wanted = os.stat(repository.objects.path)
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if _SERVING not in file.read().split(b"\0"):
                    continue
            for fd in os.listdir(f"/proc/{pid}/fd"):
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(pid))
                    break
        except OSError:
            continue  # it ended, or belongs to somebody whose repository this is not
    return found


def _can_be_ours(mount: mounttable.Mount, objects: bytes) -> bool:
    """Whether the data of an overlay mount may come from the object directory `objects`."""
    layers = mount.values(b"datadir+")
    for lower in mount.values(b"lowerdir"):
        layers += lower.split(b":")[1:]
    layers = [layer for layer in layers if layer]
    # Layers that were given as descriptors are shown as such, and tell nothing.
    return not layers or any(
        layer.startswith(_SELF_FD) or os.path.realpath(layer) == objects for layer in layers
    )


def _is_id(name: str, repository: Repository) -> bool:
    """Whether `name` is a whole image id (then it is one of another repository)."""
    size = 2 * repository.algorithm.digest_size
    return len(name) == size and all(char in "0123456789abcdef" for char in name)


def _resolve(repository: Repository, name: str) -> str | None:
    refs = repository.image_refs()
    if (image_id := refs.get(name.removeprefix("refs/"))) is not None:
        return image_id
    try:
        return names.resolve(repository, name).image_id
    except NotFoundError:
        return None


def _broken(what: str, reason: str) -> RepositoryError:
    return RepositoryError(
        f"{what}: {reason}",
        hint="'cfs fsck' tells all that is wrong; nothing was removed",
    )
