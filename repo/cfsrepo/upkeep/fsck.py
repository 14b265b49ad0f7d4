"""Checking a repository: every object, stream, link, name and image; and what damage means.

A problem names a path of the repository. For an object that is missing or damaged it says who needs
it: which images and which of their paths, or which streams.

What is checked:

- `meta.json` and the policy: where fs-verity is required, every object has it;
- pins can be read;
- links in `streams/` and `images/` point to objects that exist, names point to links that exist;
- streams: digest, structure, and that what they refer to exists; manifests and configs also
  against the OCI digest in their name;
- images: digest, structure of the whole tree, and that their files' objects exist in the right
  size;
- objects: content against digest, by several processes; a file that the kernel protects is measured
  by the kernel instead of being read (with `deep` it is read as well, so that the kernel checks
  each block). Not with `metadata_only`.

Others may store and repair meanwhile; the shared lock of the open repository keeps collectors out.
So what refers to something is read before what it refers to, and whatever is suspected is looked at
again, in a second reading of the repository: only what both find is told. Nothing is changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError
from cfsrepo.formats import metajson
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.formats.splitstream import SplitStream
from cfsrepo.images import imageinfo, neededobjects
from cfsrepo.images.names import ImageName
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import kernelverity, ocistreams, pins
from cfsrepo.store.objects import object_path
from cfsrepo.store.pins import PinKind
from cfsrepo.store.repository import Repository, link_digest
from cfsrepo.system import linux, pool
from cfsrepo.upkeep import affected, objectcheck
from cfsrepo.upkeep.findings import Checked, Kind, Problem

_OCI_DOCUMENTS: Final = (ocistreams.MANIFEST_PREFIX, ocistreams.CONFIG_PREFIX)


def check(
    repository: Repository,
    images: Iterable[ImageName] | None = None,
    *,
    metadata_only: bool = False,
    deep: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Checked:
    """Check the whole repository, or only what `images` need; see the module's description."""
    wanted = None if images is None else list(images)
    checker = _Checker(repository, deep, progress or NoProgress(), workers)
    checker.check(wanted, metadata_only)
    if checker.result.problems:
        again = _Checker(repository, deep, NoProgress(), workers)
        again.check(wanted, True)
        if not metadata_only:
            again.check_objects(checker.bad.keys() - again.bad.keys())
        checker.confirm(again)
    affected.tell(repository, checker.bad)
    return checker.result


class _Checker:
    def __init__(
        self, repository: Repository, deep: bool, progress: Progress, workers: int | None
    ) -> None:
        self.repository = repository
        self.deep = deep
        self.store = repository.objects
        self.progress = progress
        self.workers = workers
        self.result = Checked()
        self.bad: dict[bytes, Problem] = {}  # objects with a problem; one for each
        self.present: set[bytes] | None = None  # all objects, when they were listed

    # --- what to check ---------------------------------------------------------------------------

    def check(self, images: list[ImageName] | None, metadata_only: bool) -> None:
        if images is None:
            self.check_all(metadata_only)
        else:
            self.check_images(images, metadata_only)

    def confirm(self, again: _Checker) -> None:
        """Keep only those problems that another reading has found too, as it found them."""
        seen = {problem.path for problem in self.result.problems}
        self.result.problems = [p for p in again.result.problems if p.path in seen]
        self.bad = {p.digest: p for p in self.result.problems if p.digest is not None}

    def check_all(self, metadata_only: bool) -> None:
        self.check_meta()
        self.check_pins()
        # What refers first, then what is referred to: a pull may come in between.
        names = self.read_names()
        links = {category: self.read_links(category) for category in ("streams", "images")}
        self.list_objects()
        self.check_names(names, links)
        streams = self.existing(links["streams"], streams=True)
        images = self.existing(links["images"], streams=False)
        self.check_streams(streams.items())
        expected, doubtful = self.check_image_files(images)
        checked: set[bytes] = set()
        if not metadata_only:
            # Streams and images have been read; each other object once.
            assert self.present is not None
            checked = self.present - {*streams.values(), *images.values()}
        self.check_content(images, checked, expected, doubtful)

    def check_images(self, images: list[ImageName], metadata_only: bool) -> None:
        repository = self.repository
        streams = repository.streams()
        wanted: dict[str, bytes] = {}
        for image in images:
            if image.manifest_digest is None:
                continue
            content_id = ocistreams.MANIFEST_PREFIX + image.manifest_digest
            if content_id in streams:
                wanted[content_id] = streams[content_id]
                wanted |= self.streams_below(content_id, streams[content_id])
        files = {image.image_id: bytes.fromhex(image.image_id) for image in images}
        objects = self.check_streams(wanted.items())
        expected, doubtful = self.check_image_files(files)
        checked: set[bytes] = set()
        if not metadata_only:
            checked = (objects | expected.keys()) - {*wanted.values(), *files.values()}
            checked -= self.bad.keys()
        self.check_content(files, checked, expected, doubtful)

    def streams_below(self, content_id: str, digest: bytes) -> dict[str, bytes]:
        """The streams of the config and the layers of a manifest, called as in `streams/`."""
        found: dict[str, bytes] = {}
        try:
            named = self.repository.read_stream(digest, content_id).named_refs
        except (CfsError, OSError):
            return {}  # `check_streams` tells of it
        for key, target in named.items():
            if key.startswith(ocistreams.CONFIG_REF):
                found[ocistreams.CONFIG_PREFIX + key.removeprefix(ocistreams.CONFIG_REF)] = target
            else:
                found[ocistreams.LAYER_PREFIX + key] = target
        return found

    # --- problems --------------------------------------------------------------------------------

    def problem(self, kind: Kind, path: str, detail: str = "") -> None:
        self.result.problems.append(Problem(kind, path, detail))

    def bad_object(
        self, digest: bytes, kind: Kind, detail: str = "", stream: str | None = None
    ) -> None:
        """An object has a problem, which is told once; `stream` needs it."""
        found = self.bad.get(digest)
        if found is None:
            found = Problem(kind, f"objects/{object_path(digest)}", detail, digest)
            self.bad[digest] = found
            self.result.problems.append(found)
        if stream is not None and stream not in found.streams:
            found.streams.append(stream)

    def exists(self, digest: bytes) -> bool:
        return digest in self.present if self.present is not None else self.store.has(digest)

    # --- the parts -------------------------------------------------------------------------------

    def check_meta(self) -> None:
        repository = self.repository
        if repository.policy is VerityPolicy.REQUIRE:
            with linux.opened(metajson.FILE_NAME, os.O_RDONLY, dir_fd=repository.fd) as fd:
                if kernelverity.measure(fd, repository.algorithm) is None:
                    self.problem(Kind.UNPROTECTED, metajson.FILE_NAME)

    def list_objects(self) -> None:
        self.present = set()
        size = 2 * self.store.algorithm.digest_size
        for prefix in self.store.prefixes():
            for name in os.listdir(f"{self.store.path}/{prefix}"):
                whole = prefix + name
                try:
                    digest = bytes.fromhex(whole)
                except ValueError:
                    digest = b""
                if len(whole) == size and digest.hex() == whole:
                    self.present.add(digest)
                else:
                    self.problem(Kind.STRAY, f"objects/{prefix}/{name}", "not an object's name")

    def check_pins(self) -> None:
        for pin in pins.read(self.repository):
            if pin.kind is PinKind.DAMAGED:
                self.problem(
                    Kind.BAD_PIN,
                    pins.path_of(pin),
                    f"{pin.reason}; 'cfs unpin {pin.pin_id}' removes it, if what it was for "
                    "is not mounted any more",
                )

    def read_names(self) -> dict[str, dict[str, str]]:
        """The references of each category: name -> what it stands for."""
        repository = self.repository
        return {"streams": repository.stream_refs(), "images": repository.image_refs()}

    def read_links(self, category: str) -> dict[str, bytes]:
        """The links of streams/ or images/ that can be those of objects; tells of the others."""
        found: dict[str, bytes] = {}
        try:
            entries = list(os.scandir(f"{self.repository.path}/{category}"))
        except FileNotFoundError:
            return {}
        for entry in entries:
            path = f"{category}/{entry.name}"
            if entry.is_symlink():
                try:
                    target = os.readlink(entry.path)
                except FileNotFoundError:
                    continue  # on its way to another name
                digest = link_digest(target, self.store.algorithm)
                if digest is None or (category == "images" and digest.hex() != entry.name):
                    self.problem(Kind.BAD_LINK, path, f"points to {target}")
                else:
                    found[entry.name] = digest
            elif entry.name != "refs" or not entry.is_dir():
                self.problem(Kind.STRAY, path, "not a link")
        return found

    def existing(self, links: dict[str, bytes], *, streams: bool) -> dict[str, bytes]:
        """Those of the links whose objects exist; tells of the others."""
        for name, digest in links.items():
            if not self.exists(digest):
                self.bad_object(digest, Kind.MISSING, stream=name if streams else None)
        return {name: digest for name, digest in links.items() if self.exists(digest)}

    def check_names(
        self, names: dict[str, dict[str, str]], links: dict[str, dict[str, bytes]]
    ) -> None:
        repository = self.repository
        for category, refs in names.items():
            self.result.names += len(refs)
            for name, target in sorted(refs.items()):
                known = target in links[category] or _is_link(repository, f"{category}/{target}")
                if not known:
                    self.problem(Kind.BAD_NAME, f"{category}/refs/{name}", f"there is no {target}")
            for directory, _, files in os.walk(f"{repository.path}/{category}/refs"):
                for file in files:
                    if not os.path.islink(f"{directory}/{file}"):
                        path = os.path.relpath(f"{directory}/{file}", repository.path)
                        self.problem(Kind.STRAY, path, "not a link")

    def check_streams(self, streams: Iterable[tuple[str, bytes]]) -> set[bytes]:
        """Check streams; returns what they refer to."""
        needed: set[bytes] = set()
        for content_id, digest in streams:
            self.result.streams += 1
            stream = self.read(content_id, digest)
            if stream is None:
                continue
            refs = {*stream.object_refs, *stream.named_refs.values()}
            needed |= refs
            for ref in refs:
                if not self.exists(ref):
                    self.bad_object(ref, Kind.MISSING, stream=content_id)
            self.check_document(content_id, stream)
        return needed

    def read(self, content_id: str, digest: bytes) -> SplitStream | None:
        """A stream read and checked to its end; None after telling why it cannot be."""
        try:
            stream = self.repository.read_stream(digest, content_id)
            for _ in stream.chunks():
                pass
        except NotFoundError:
            self.bad_object(digest, Kind.MISSING, stream=content_id)
        except OSError as error:
            self.bad_object(digest, Kind.UNREADABLE, str(error.strerror), content_id)
        except CfsError as error:
            # The digest decides whether the object is damaged or was never a stream.
            if objectcheck.state(self.store, digest) is None:
                self.problem(Kind.BAD_STREAM, f"streams/{content_id}", str(error))
            else:
                self.bad_object(digest, Kind.DAMAGED, stream=content_id)
        else:
            return stream
        return None

    def check_document(self, content_id: str, stream: SplitStream) -> None:
        """A manifest or config against the OCI digest in its name."""
        prefix = next((p for p in _OCI_DOCUMENTS if content_id.startswith(p)), None)
        if prefix is None:
            return
        algorithm, _, wanted = content_id.removeprefix(prefix).partition(":")
        if algorithm not in ("sha256", "sha512"):
            return
        try:
            document = imageinfo.document(self.repository, stream)
        except (CfsError, OSError):
            return  # its object is missing or damaged, which is told for the object
        if hashlib.new(algorithm, document).hexdigest() != wanted:
            self.problem(Kind.BAD_STREAM, f"streams/{content_id}", "its content has another digest")

    def check_image_files(self, images: dict[str, bytes]) -> tuple[dict[bytes, int], set[bytes]]:
        """Check image files, several at a time.

        Returns the objects of their files with sizes, and those of which two say different ones.
        """
        expected: dict[bytes, int] = {}
        doubtful: set[bytes] = set()
        found = pool.run(sorted(images.items()), self.check_image_file, self.workers)
        for (image_id, digest), (kind, detail, objects) in found:
            self.result.images += 1
            if kind is Kind.BAD_IMAGE:
                self.problem(kind, f"images/{image_id}", detail)
            elif kind is not None:
                self.bad_object(digest, kind, detail)
            for ref, size in objects.items():
                if expected.setdefault(ref, size) != size:
                    doubtful.add(ref)
        return expected, doubtful

    def check_content(
        self,
        images: dict[str, bytes],
        objects: set[bytes],
        expected: dict[bytes, int],
        doubtful: set[bytes],
    ) -> None:
        """Check the content of `objects`, and the sizes of all that are expected."""
        doubtful |= self.check_objects(objects, expected)
        rest = {digest: size for digest, size in expected.items() if digest not in objects}
        doubtful |= self.check_sizes(rest)
        # Whose fault a wrong size is, the digest says: of the file, or of the image.
        sound = set()
        for ref in sorted(doubtful):
            state = objectcheck.state(self.store, ref)
            if state is None:
                sound.add(ref)
            else:
                self.bad_object(ref, *state)
        for item in sorted(images.items()) if sound else ():
            said = self.check_image_file(item)[2]
            for ref in sorted(sound & said.keys()):
                if said[ref] != (actual := self.store.size(ref)):
                    self.problem(
                        Kind.BAD_IMAGE,
                        f"images/{item[0]}",
                        f"says that {object_path(ref)} has {said[ref]} bytes, not {actual}",
                    )

    def check_sizes(self, expected: dict[bytes, int]) -> set[bytes]:
        """The objects that are missing, or have another size than expected."""
        groups: dict[int, list[bytes]] = {}
        for digest in expected:
            groups.setdefault(digest[0], []).append(digest)

        def work(group: list[bytes]) -> list[bytes]:
            return [digest for digest in group if self.store.size(digest) != expected[digest]]

        wrong: set[bytes] = set()
        for _, digests in pool.run(list(groups.values()), work, self.workers):
            wrong.update(digests)
        return wrong

    def check_image_file(
        self, item: tuple[str, bytes]
    ) -> tuple[Kind | None, str, dict[bytes, int]]:
        """What is wrong with an image file, and its files' objects with sizes."""
        image_id, digest = item
        state = objectcheck.state(self.store, digest)
        if state is not None:
            return *state, {}
        try:
            with self.repository.open_image(image_id, verify=False) as data:
                image = ErofsImage(data, image_id)
                return None, "", neededobjects.needed_objects(image, self.repository.algorithm)
        except (CfsError, NotADirectoryError) as error:
            return Kind.BAD_IMAGE, str(error), {}

    def check_objects(
        self, digests: set[bytes], expected: Mapping[bytes, int] = MappingProxyType({})
    ) -> set[bytes]:
        """Content against digest, in several processes, by directory.

        Returns those that have another size than expected.
        """
        groups: dict[int, list[bytes]] = {}
        for digest in digests:
            groups.setdefault(digest[0], []).append(digest)
        require = self.repository.policy is VerityPolicy.REQUIRE
        task = "objects"
        self.progress.start(task, len(digests), "objects")
        wrong: set[bytes] = set()

        def work(group: list[bytes]) -> objectcheck.Group:
            return objectcheck.check_group(
                self.store, sorted(group), require=require, deep=self.deep, expected=expected
            )

        for group, found in pool.run(list(groups.values()), work, self.workers):
            self.result.objects += len(group)
            self.result.size += found.size
            wrong.update(found.other_size)
            for digest, kind, detail in found.bad:
                self.bad_object(digest, kind, detail)
            self.progress.advance(task, len(group))
        self.progress.finish(task)
        return wrong


def _is_link(repository: Repository, path: str) -> bool:
    return os.path.islink(f"{repository.path}/{path}")
