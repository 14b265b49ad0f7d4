"""Repairing what a check found: bad objects are made again from a source, and put in place.

A source is an OCI image layout (`oci:DIR[:REF]`) that has the image, of which only the layers are
unpacked that hold something bad, or another repository with the same digest algorithm.

A bad object is replaced by a rename, whole, after its content was found to have the right digest;
who has the old file open keeps it. A stream of cfsctl can differ from ours in the order of its
references; then ours is stored and the link in `streams/` is changed.

What cannot be repaired and exists is moved, never deleted:

    cfsfuse/quarantine/HEX        an object that is damaged
    cfsfuse/quarantine/XX-NAME    a file among the objects that is none

Moving happens under the exclusive lock; replacing needs only the shared one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError, UsageError
from cfsrepo.oci import importer
from cfsrepo.oci.documents import Descriptor
from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.transports.imagelayout import Layout
from cfsrepo.oci.transports.reference import parse_reference
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import ocistreams, refs
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.objects import ObjectStore, Ways, object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import fsck, objectcheck
from cfsrepo.upkeep.findings import Checked, Kind, Problem
from cfsrepo.upkeep.reachability import Marker

_QUARANTINE: Final = "quarantine"


@dataclass(slots=True)
class Repaired:
    """What became of the problems. Paths in the repository."""

    restored: list[str] = field(default_factory=list)
    """Objects that are good again, and links that point to good ones again."""
    quarantined: list[str] = field(default_factory=list)
    """What was moved to quarantine."""
    left: list[Problem] = field(default_factory=list)
    """Problems that still exist; those of quarantined objects too, which are missing now."""


def repair(
    repository: Repository,
    checked: Checked,
    sources: Collection[str] = (),
    progress: Progress | None = None,
) -> Repaired:
    """Repair the problems that `checked` found, from `sources`, in order."""
    repository.check_writable()
    progress = progress or NoProgress()
    work = _Repair(repository, checked, progress)
    while True:
        for source in sources:
            if not work.finished():
                work.take_from(source)
        if not work.look_again():
            return work.conclude()


class MendingStore(ObjectStore):
    """The objects of a repository some of which are known to be bad: those are written again.

    A bad object counts as absent until its content is right, by whatever process it was repaired.
    """

    def __init__(self, store: ObjectStore, bad: set[bytes]) -> None:
        super().__init__(store.path, store.algorithm, store.policy)
        self.bad = set(bad)
        self._plain = store

    def is_bad(self, digest: bytes) -> bool:
        """Whether the object is still bad; looks again."""
        if digest not in self.bad:
            return False
        if objectcheck.state(self._plain, digest) is not None:
            return True
        self.bad.discard(digest)
        return False

    def open(self, digest: bytes) -> int:
        if self.is_bad(digest):
            raise NotFoundError(f"{self.path}/{object_path(digest)}: not repaired yet")
        return super().open(digest)

    def size(self, digest: bytes) -> int | None:
        return None if self.is_bad(digest) else super().size(digest)

    def _has_good(self, path: str, digest: bytes, size: int) -> bool:
        return not self.is_bad(digest) and super()._has_good(path, digest, size)


class _View(Repository):
    """The repository as an import sees it that repairs: what is bad is not there.

    The import makes an image that exists; only links that were bad are published.
    """

    def __init__(self, repository: Repository, store: MendingStore, bad_links: set[str]) -> None:
        super().__init__(repository.path, os.dup(repository.fd), repository.meta, repository.policy)
        self.objects: MendingStore = store
        self._bad_links = bad_links
        self.any_image = False
        """Publish although the image file that was made is none of this repository."""

    def stream_id(self, content_id: str) -> bytes | None:
        digest = super().stream_id(content_id)
        if digest is None or content_id in self._bad_links or self.objects.is_bad(digest):
            return None
        if content_id.startswith(ocistreams.LAYER_PREFIX):
            try:
                stream = self.read_stream(digest, content_id)
            except CfsError:
                return None
            if any(self.objects.is_bad(ref) for ref in self.objects.bad & {*stream.object_refs}):
                return None
        return digest

    def publish(self, streams: Mapping[str, bytes], images: Collection[bytes] = ()) -> None:
        known = self.images()
        if not self.any_image and not all(digest.hex() in known for digest in images):
            return
        bad = [content_id for content_id in streams if self.stream_id(content_id) is None]
        documents = (ocistreams.MANIFEST_PREFIX, ocistreams.CONFIG_PREFIX)
        if any(content_id.startswith(documents) for content_id in bad):
            # They refer to each other by the digests of their streams: both or none.
            bad = [name for name in streams if name in bad or name.startswith(documents)]
        if bad:
            shown = [digest for digest in images if digest.hex() in known]
            super().publish({content_id: streams[content_id] for content_id in bad}, shown)
            self._bad_links.difference_update(bad)

    def tag(self, name: str, content_id: str) -> None:
        """Names were not what was damaged."""


class _Repair:
    def __init__(self, repository: Repository, checked: Checked, progress: Progress) -> None:
        self.repository = repository
        self.checked = checked
        self.progress = progress
        self.store = MendingStore(repository.objects, checked.bad_objects())
        streams = repository.streams()
        # Streams whose link, or whose content under it, is not what it should be.
        self.bad_links = {
            problem.path.removeprefix("streams/")
            for problem in checked.problems
            if problem.kind in (Kind.BAD_LINK, Kind.BAD_STREAM)
            and problem.path.startswith("streams/")
        }
        self.bad_links |= {
            target for target in repository.stream_refs().values() if target not in streams
        }

    def finished(self) -> bool:
        return not self.bad_links and not any(
            self.store.is_bad(digest) for digest in list(self.store.bad)
        )

    def look_again(self) -> bool:
        """Find what streams and images need that came back; whether there is anything new."""
        known = self.checked.bad_objects()
        back = {digest for digest in known if not self.store.is_bad(digest)}
        containers = {*self.repository.streams().values(), *self.repository.images().values()}
        if not back & containers:
            return False
        found = fsck.check(self.repository, metadata_only=True)
        new = [p for p in found.problems if p.digest is not None and p.digest not in known]
        self.checked.problems += new
        self.store.bad |= self.checked.bad_objects() - known
        return bool(self.checked.bad_objects() - known)

    # --- sources ---------------------------------------------------------------------------------

    def take_from(self, source: str) -> None:
        if source.startswith("oci:"):
            self.take_from_layout(source)
        else:
            with Repository.open(source) as other:
                self.take_from_repository(other)

    def take_from_layout(self, source: str) -> None:
        """Import the images again that this repository and the layout have; only bad parts."""
        reference = parse_reference(source)
        with Layout(reference.directory) as layout:
            for descriptor in self.descriptors(layout, reference.ref):
                if self.finished():
                    return
                with _View(self.repository, self.store, self.bad_links) as view:
                    self.import_again(view, layout, descriptor)

    def import_again(self, view: _View, layout: Layout, descriptor: Descriptor) -> None:
        """Import an image so that it comes out as it was; only the result tells how it was made."""
        data, manifest = layout.manifest(descriptor)
        # At the end, whatever image comes out is better than none.
        for mode, any_image in (*((mode, False) for mode in XattrMode), (XattrMode.OCI, True)):
            view.any_image = any_image
            made = importer.import_image(
                view,
                layout,
                data,
                manifest,
                descriptor.digest,
                "repair",
                xattrs=mode,
                progress=self.progress,
            )
            if made.image_id in self.repository.images():
                return

    def descriptors(self, layout: Layout, ref: str | None) -> list[Descriptor]:
        """The manifests of the layout that are images of this repository."""
        known = {
            content_id.removeprefix(ocistreams.MANIFEST_PREFIX)
            for content_id in (
                *self.repository.streams(),
                *self.repository.stream_refs().values(),
                *self.bad_links,
            )
            if content_id.startswith(ocistreams.MANIFEST_PREFIX)
        }
        found: dict[str, Descriptor] = {}
        for wanted in [ref] if ref is not None else [None, *sorted(known)]:
            try:
                descriptor = layout.find(wanted)
            except NotFoundError:
                if ref is not None:
                    raise
                continue
            if descriptor.digest in known:
                found[descriptor.digest] = descriptor
        if not found:
            raise NotFoundError(
                f"{layout.directory}: has no image that is in {self.repository.path}"
            )
        return list(found.values())

    def take_from_repository(self, other: Repository) -> None:
        """Copy the objects that are bad here and good there, and streams that are missing here."""
        if other.algorithm is not self.repository.algorithm:
            raise UsageError(f"{other.path}: has {other.algorithm} digests")
        for digest in sorted(self.store.bad):
            if objectcheck.state(other.objects, digest) is None:
                self.store.copy_from(other.objects, digest, Ways())
        for content_id in sorted(self.bad_links):
            stream = other.stream_id(content_id)
            if stream is None or objectcheck.state(other.objects, stream) is not None:
                continue
            marked = Marker(other).reach({content_id: stream}, ())
            for digest in sorted(marked.live):
                self.store.copy_from(other.objects, digest, Ways())
            below = {n: d for n, d in other.streams().items() if d in marked.streams}
            missing = {n: d for n, d in below.items() if self.repository.stream_id(n) is None}
            images = [d for d in other.images().values() if d in marked.live]
            self.repository.publish({**missing, content_id: stream}, images)
            self.bad_links.discard(content_id)

    # --- the end ---------------------------------------------------------------------------------

    def conclude(self) -> Repaired:
        """Put to quarantine what is still bad and exists; tell what became of each problem."""
        self.repository.sync()
        result = Repaired()
        to_move: list[Problem] = []
        for problem in self.checked.problems:
            if problem.digest is not None and problem.digest in self.checked.bad_objects():
                if not self.store.is_bad(problem.digest):
                    result.restored.append(problem.path)
                    continue
                if problem.kind is not Kind.MISSING:
                    to_move.append(problem)
                if self.superseded(problem.digest):
                    continue
            elif problem.path.startswith("streams/"):
                name = refs.last_component(problem.path)
                target = self.repository.stream_refs().get(
                    problem.path.removeprefix("streams/refs/"), name
                )
                if problem.kind is not Kind.STRAY and target not in self.bad_links:
                    result.restored.append(problem.path)
                    continue
            elif problem.kind is Kind.STRAY and problem.path.startswith("objects/"):
                to_move.append(problem)
                continue
            result.left.append(problem)
        if to_move:
            result.quarantined = self.quarantine(to_move)
        return result

    def superseded(self, digest: bytes) -> bool:
        """Whether nothing refers to the object any more, since links were changed."""
        if digest in self.repository.streams().values():
            return False
        try:
            return digest not in Marker(self.repository).mark().live
        except CfsError:
            return False

    def quarantine(self, problems: list[Problem]) -> list[str]:
        """Move what is bad out of the way, while nobody else has the repository open."""
        repository = self.repository
        repository.private_directory(_QUARANTINE)
        moved = []
        with repository.exclusive(self.progress.message):
            for problem in problems:
                if problem.digest is not None:
                    if not self.store.is_bad(problem.digest):
                        continue  # somebody stored it meanwhile
                    name = problem.digest.hex()
                else:
                    name = problem.path.removeprefix("objects/").replace("/", "-")
                target = f"{PRIVATE_DIRECTORY}/{_QUARANTINE}/{name}"
                with contextlib.suppress(FileNotFoundError):
                    os.rename(
                        problem.path, target, src_dir_fd=repository.fd, dst_dir_fd=repository.fd
                    )
                    moved.append(problem.path)
        return moved
