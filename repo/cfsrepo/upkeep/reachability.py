"""What a repository must keep: everything that can be reached from its names and from what is used.

Roots are `streams/refs`, `images/refs`, and images that are in use (`cfsrepo.upkeep.inuse`). From a
stream everything in its two reference arrays is reached: the objects, and the streams and images
that it names. From an image file its files' objects are reached; an image that a stream names is
not read for that, since the streams of its layers reach the same objects (a collection by cfsctl
relies on that too).

No object's content is read but that of streams and of images that no stream names. Each is checked
against its digest first: references in a damaged one would be wrong, and what it needs would go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cfsrepo.errors import CfsError, NotFoundError, RepositoryError
from cfsrepo.store import ocistreams
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import inuse
from cfsrepo.upkeep.inuse import InUse


@dataclass(slots=True)
class Marked:
    """The result of marking: digests to keep, and why some that nothing names are kept."""

    live: set[bytes]
    """Digests of all objects to keep."""
    streams: set[bytes]
    """Those of them that are streams."""
    in_use: InUse = field(default_factory=InUse)
    """What is kept beside what is named."""


class Marker:
    """Marks a repository. What it has read it remembers, so that marking again costs little."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        # digest of a stream -> (its objects, what it names: key -> digest)
        self._streams: dict[bytes, tuple[list[bytes], dict[str, bytes]]] = {}
        self._images: dict[bytes, set[bytes]] = {}
        self._last: tuple[object, Marked] | None = None

    def mark(self) -> Marked:
        """Follow all roots as they are now. The caller holds a lock of the repository.

        `RepositoryError` where a root or what it reaches is missing or damaged: a collection then
        could remove what a repair needs.
        """
        repository = self._repository
        marked = Marked(set(), set(), inuse.find(repository))
        # Names before what they stand for: a pull may come in between.
        stream_refs, image_refs = repository.stream_refs(), repository.image_refs()
        streams, images = repository.streams(), repository.images()
        roots = (stream_refs, image_refs, streams, images, marked.in_use.reasons.keys())
        if self._last is not None and self._last[0] == roots:
            return replace(self._last[1], in_use=marked.in_use)
        self._last = roots, marked
        for name, content_id in sorted(stream_refs.items()):
            if content_id not in streams:
                raise _broken(f"streams/refs/{name}", f"there is no stream {content_id}")
            self._mark_stream(streams[content_id], content_id, marked)
        for name, image_id in sorted(image_refs.items()):
            if image_id not in images:
                raise _broken(f"images/refs/{name}", f"there is no image {image_id}")
            self._mark_image(images[image_id], marked)
        for image_id in marked.in_use.reasons:
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
            # Loaded late: most collections read no image.
            from cfsrepo.formats.erofs.reader import ErofsImage
            from cfsrepo.images import neededobjects

            image_id = digest.hex()
            try:
                with self._repository.open_image(image_id) as data:
                    image = ErofsImage(data, image_id)
                    objects = set(neededobjects.needed_objects(image, self._repository.algorithm))
            except CfsError as error:
                raise _broken(f"images/{image_id}", str(error)) from error
            self._images[digest] = objects
        marked.live |= objects


def _broken(what: str, reason: str) -> RepositoryError:
    return RepositoryError(
        f"{what}: {reason}",
        hint="'cfs fsck' tells all that is wrong; nothing was removed",
    )
