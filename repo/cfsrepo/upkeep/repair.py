"""Repairing what a check found: bad objects are made again from a source, and put in place.

A source is an OCI image (`cfsrepo.oci.transports.reference`), of which only the layers are
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
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError, UsageError
from cfsrepo.oci import importer
from cfsrepo.oci.documents import Descriptor, parse_manifest
from cfsrepo.oci.importer import StoredImage, with_downloads
from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import ImageSource
from cfsrepo.oci.transports.imagelayout import Layout
from cfsrepo.oci.transports.open import open_source
from cfsrepo.oci.transports.platforms import manifests
from cfsrepo.oci.transports.reference import is_reference, parse_reference
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import ocistreams, refs
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.objectcopy import Ways, copy_object
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
    doubts = _Doubts(repository, checked)
    with repository.doubting(doubts) as view:
        work = _Repair(repository, view, doubts, checked, progress)
        while True:
            for source in sources:
                if doubts.any_left():
                    work.take_from(source)
            if not work.look_again():
                return work.conclude()


class _Doubts:
    """What is to count as absent in a repository, so that storing it makes it again."""

    def __init__(self, repository: Repository, checked: Checked) -> None:
        self.objects = checked.bad_objects()
        """Digests of objects that are missing or have another content."""
        # What refers first, then what is referred to: a pull may come in between.
        kept = set(repository.stream_refs().values())
        self.links = {
            problem.path.removeprefix("streams/")
            for problem in checked.problems
            if problem.kind in (Kind.BAD_LINK, Kind.BAD_STREAM)
            and problem.path.startswith("streams/")
        } | (kept - repository.streams().keys())
        """Content ids of streams whose link, or whose content under it, is wrong."""
        self._store = repository.objects

    def object(self, digest: bytes) -> bool:
        """Whether the object is still bad; looks again, so whoever repaired it."""
        if digest not in self.objects:
            return False
        if objectcheck.state(self._store, digest) is not None:
            return True
        self.objects.discard(digest)
        return False

    def stream(self, content_id: str) -> bool:
        """Whether the stream's link is wrong."""
        return content_id in self.links

    def any_left(self) -> bool:
        """Whether anything is still bad."""
        return bool(self.links) or any(map(self.object, list(self.objects)))


class _Repair:
    def __init__(
        self,
        repository: Repository,
        view: Repository,
        doubts: _Doubts,
        checked: Checked,
        progress: Progress,
    ) -> None:
        self.repository = repository
        self.view = view
        """The same repository, without what is bad."""
        self.doubts = doubts
        self.checked = checked
        self.progress = progress

    def look_again(self) -> bool:
        """Find what streams and images need that came back; whether there is anything new."""
        known = self.checked.bad_objects()
        back = {digest for digest in known if not self.doubts.object(digest)}
        containers = {*self.repository.streams().values(), *self.repository.images().values()}
        if not back & containers:
            return False
        found = fsck.check(self.repository, metadata_only=True)
        new = [p for p in found.problems if p.digest is not None and p.digest not in known]
        self.checked.problems += new
        self.doubts.objects |= self.checked.bad_objects() - known
        return bool(self.checked.bad_objects() - known)

    # --- sources ---------------------------------------------------------------------------------

    def take_from(self, source: str) -> None:
        if is_reference(source):
            self.take_from_image(source)
        else:
            with Repository.open(source) as other:
                self.take_from_repository(other)

    def take_from_image(self, text: str) -> None:
        """Import the images again that this repository and the source have; only bad parts."""
        with open_source(
            parse_reference(text), with_downloads(self.repository, Access())
        ) as source:
            for descriptor in self.descriptors(source):
                if not self.doubts.any_left():
                    return
                self.import_again(source, descriptor)

    def import_again(self, source: ImageSource, descriptor: Descriptor) -> None:
        """Import an image so that it comes out as it was; only the result tells how it was made."""
        data = source.read_manifest(descriptor)
        manifest = parse_manifest(data, f"{source.name}: manifest {descriptor.digest}")
        made: StoredImage | None = None
        for mode in XattrMode:
            found = importer.store_image(
                self.view,
                source,
                data,
                manifest,
                descriptor.digest,
                xattrs=mode,
                progress=self.progress,
            )
            default = found.images[self.repository.meta.erofs_default]
            if default.hex() in self.repository.images():
                self.publish(found)
                return
            if mode is XattrMode.OCI:
                made = found
        # Whatever image comes out is better than none.
        assert made is not None
        self.publish(made)

    def publish(self, made: StoredImage) -> None:
        """Make those streams visible again whose links were bad. Names were not damaged."""
        bad = {content_id for content_id in made.streams if self.view.stream_id(content_id) is None}
        documents = (ocistreams.MANIFEST_PREFIX, ocistreams.CONFIG_PREFIX)
        if any(content_id.startswith(documents) for content_id in bad):
            # They refer to each other by the digests of their streams: both or none.
            bad |= {name for name in made.streams if name.startswith(documents)}
        if bad:
            known = self.repository.images()
            shown = [digest for digest in made.images.values() if digest.hex() in known]
            again = {name: digest for name, digest in made.streams.items() if name in bad}
            self.repository.publish(again, shown)
            self.doubts.links -= bad

    def descriptors(self, source: ImageSource) -> list[Descriptor]:
        """The manifests of the source that are images of this repository."""
        known = {
            content_id.removeprefix(ocistreams.MANIFEST_PREFIX)
            for content_id in (
                *self.repository.streams(),
                *self.repository.stream_refs().values(),
                *self.doubts.links,
            )
            if content_id.startswith(ocistreams.MANIFEST_PREFIX)
        }
        start = source.index if isinstance(source, Layout) and not source.ref else source.find()
        listed = manifests(source, start)
        found = [item for item in listed if item.digest in known]
        if not found:
            raise NotFoundError(f"{source.name}: has no image that is in {self.repository.path}")
        return found

    def take_from_repository(self, other: Repository) -> None:
        """Copy the objects that are bad here and good there, and streams that are missing here."""
        if other.algorithm is not self.repository.algorithm:
            raise UsageError(f"{other.path}: has {other.algorithm} digests")
        for digest in sorted(self.doubts.objects):
            if objectcheck.state(other.objects, digest) is None:
                copy_object(other.objects, self.view.objects, digest, Ways())
        for content_id in sorted(self.doubts.links):
            stream = other.stream_id(content_id)
            if stream is None or objectcheck.state(other.objects, stream) is not None:
                continue
            marked = Marker(other).reach({content_id: stream}, ())
            for digest in sorted(marked.live):
                copy_object(other.objects, self.view.objects, digest, Ways())
            below = {n: d for n, d in other.streams().items() if d in marked.streams}
            missing = {n: d for n, d in below.items() if self.repository.stream_id(n) is None}
            images = [d for d in other.images().values() if d in marked.live]
            self.repository.publish({**missing, content_id: stream}, images)
            self.doubts.links.discard(content_id)

    # --- the end ---------------------------------------------------------------------------------

    def conclude(self) -> Repaired:
        """Put to quarantine what is still bad and exists; tell what became of each problem."""
        self.repository.sync()
        result = Repaired()
        to_move: list[Problem] = []
        for problem in self.checked.problems:
            if problem.digest is not None and problem.digest in self.checked.bad_objects():
                if not self.doubts.object(problem.digest):
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
                if problem.kind is not Kind.STRAY and target not in self.doubts.links:
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
                    if not self.doubts.object(problem.digest):
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
