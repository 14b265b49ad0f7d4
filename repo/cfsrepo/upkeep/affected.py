"""Who is affected by a bad object: which images and which of their paths, and which streams."""

from __future__ import annotations

from cfsrepo.errors import CfsError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images import names, neededobjects
from cfsrepo.store import ocistreams
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep.findings import Need, Problem


def tell(repository: Repository, bad: dict[bytes, Problem]) -> None:
    """Add to the problems of bad objects (digest -> problem) the streams and images that need them.

    What cannot be read is left out: it has a problem of its own.
    """
    if bad:
        _Teller(repository, bad).tell()


class _Teller:
    def __init__(self, repository: Repository, bad: dict[bytes, Problem]) -> None:
        self.repository = repository
        self.bad = bad

    def tell(self) -> None:
        for content_id, digest in self.repository.streams().items():
            self.needed_by_stream(content_id, digest)
        bad = set(self.bad)
        tags: dict[str, list[str]] = {}
        for tag, content_id in self.repository.tags().items():
            tags.setdefault(content_id, []).append(tag)
        # By what the OCI documents say, which may be damaged themselves ...
        for content_id, digest in self.repository.streams().items():
            if content_id.startswith(ocistreams.MANIFEST_PREFIX):
                members, image_id = self.members(digest, content_id)
                fallback = [content_id.removeprefix(ocistreams.MANIFEST_PREFIX)]
                for name in tags.get(content_id, fallback):
                    for ref in bad & members:
                        self.need(ref, Need(name, image_id, ()))
        # ... and by what the images say.
        seen: dict[str, dict[bytes, list[bytes]]] = {}
        for image in names.list_images(self.repository):
            if image.image_id not in seen:
                seen[image.image_id] = _paths(self.repository, image.image_id, bad)
            for ref, paths in seen[image.image_id].items():
                self.need(ref, Need(image.name, image.image_id, tuple(paths)))
            if (ref := bytes.fromhex(image.image_id)) in bad:
                self.need(ref, Need(image.name, image.image_id, ()))

    def need(self, digest: bytes, need: Need) -> None:
        needs = self.bad[digest].needs
        for number, other in enumerate(needs):
            if other.name == need.name and not other.paths:
                needs[number] = need
                return
            if other.name == need.name and not need.paths:
                return
        needs.append(need)

    def needed_by_stream(self, content_id: str, digest: bytes) -> None:
        if digest in self.bad:
            refs = {digest}
        else:
            try:
                stream = self.repository.read_stream(digest, content_id)
            except (CfsError, OSError):
                return  # a problem of its own
            refs = self.bad.keys() & {*stream.object_refs, *stream.named_refs.values()}
        for ref in refs:
            if content_id not in self.bad[ref].streams:
                self.bad[ref].streams.append(content_id)

    def members(self, digest: bytes, content_id: str) -> tuple[set[bytes], str | None]:
        """Digests of what makes up an OCI image, but for files; and its image id."""
        found = {digest}
        image_id = None
        try:
            manifest = self.repository.read_stream(digest, content_id)
            found |= {*manifest.object_refs, *manifest.named_refs.values()}
            config_ref = ocistreams.manifest_config(manifest)
            if config_ref is not None:
                config = self.repository.read_stream(config_ref[1], config_ref[0])
                found |= {*config.object_refs, *config.named_refs.values()}
                image = ocistreams.config_image(config)
                image_id = None if image is None else image.hex()
        except (CfsError, OSError):
            return found, image_id  # what is damaged is among what was found
        return found, image_id


def _paths(repository: Repository, image_id: str, wanted: set[bytes]) -> dict[bytes, list[bytes]]:
    """Paths in an image by object; none for an image that cannot be read."""
    try:
        with repository.open_image(image_id, verify=False) as data:
            image = ErofsImage(data, image_id)
            return neededobjects.paths_of(image, wanted, repository.algorithm)
    except (CfsError, OSError):
        return {}
