"""Pulling an image: layers, configuration and manifest into a repository, and its image file.

    streams/oci-layer-DIFFID       the layer's archive, big files as objects
    streams/oci-config-DIGEST      the configuration; refers to the layers by diff id, and to the
                                   image file as `composefs.image.v1` (`composefs.image` for
                                   version 2)
    streams/oci-manifest-DIGEST    the manifest; refers to the configuration as `config:DIGEST` and
                                   to the layers
    streams/refs/oci/NAME          keeps all of it

These are the names and references that cfsctl uses and keeps. An image pulled again with another
choice of extended attributes has another image file, and the configuration then refers to that one
(as `composefs.image.v1.xattrs=all` too, where all attributes were kept).

Nothing becomes visible before everything is stored and checked: a pull that fails, for whatever
reason, leaves objects that nothing refers to and no other trace.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cfsrepo.errors import InputError, NotFoundError, RepositoryError
from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_MANIFEST, SplitStream, SplitStreamWriter
from cfsrepo.formats.tree import paused_gc
from cfsrepo.oci.documents import (
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    parse_config,
    parse_manifest,
)
from cfsrepo.oci.layerjobs import LayerJob, import_layers
from cfsrepo.oci.layers import read_layer
from cfsrepo.oci.limits import DEFAULT_LIMITS, Limits
from cfsrepo.oci.merge import Merger, XattrMode
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import BlobSource, ImageSource, read_document
from cfsrepo.oci.transports.downloads import DOWNLOADS
from cfsrepo.oci.transports.open import open_source
from cfsrepo.oci.transports.platforms import choose, own_platform
from cfsrepo.oci.transports.reference import parse_reference
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store.ocistreams import (
    CONFIG_PREFIX,
    CONFIG_REF,
    IMAGE_REF_PREFIX,
    IMAGE_REFS,
    LAYER_PREFIX,
    MANIFEST_PREFIX,
)
from cfsrepo.store.refs import encode_tag
from cfsrepo.store.repository import Repository

_DEFAULT_ACCESS = Access()


@dataclass(frozen=True, slots=True)
class PulledImage:
    """What a pull made."""

    image_id: str
    """Digest of the image file, in hex."""
    manifest_digest: str
    config_digest: str
    name: str
    layers: int
    new_layers: int
    """Layers that the repository did not have."""


def pull(
    repo: Repository,
    source: str,
    name: str | None = None,
    *,
    xattrs: XattrMode = XattrMode.OCI,
    limits: Limits = DEFAULT_LIMITS,
    platform: Platform | None = None,
    access: Access = _DEFAULT_ACCESS,
    progress: Progress | None = None,
) -> PulledImage:
    """Pull the image `source`, a reference as `cfsrepo.oci.transports.reference` has them, and call
    it `name` (None: a name made from it).

    Of an image for several platforms it is the one for `platform` (None: this machine's).

    Raises UsageError for a source that is none, NotFoundError where there is no such image,
    InputError for one that is damaged or hostile, LimitError for one that asks for more than
    `limits`, TransportError for a registry that cannot be reached or refuses, OSError where it
    cannot be stored.
    """
    progress = progress or NoProgress()
    repo.check_writable()
    reference = parse_reference(source)
    name = name or reference.default_name()
    encode_tag(name)
    with open_source(reference, with_downloads(repo, access)) as opened:
        descriptor = choose(opened, platform)
        return pull_manifest(
            repo, opened, descriptor, name, xattrs=xattrs, limits=limits, progress=progress
        )


def pull_manifest(
    repo: Repository,
    source: ImageSource,
    descriptor: Descriptor,
    name: str,
    *,
    xattrs: XattrMode,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress,
) -> PulledImage:
    """Pull the image whose manifest is `descriptor`."""
    data = source.read_manifest(descriptor)
    manifest = parse_manifest(data, f"{source.name}: manifest {descriptor.digest}")
    return import_image(
        repo,
        source,
        data,
        manifest,
        descriptor.digest,
        name,
        xattrs=xattrs,
        limits=limits,
        progress=progress,
    )


def with_downloads(repo: Repository, access: Access) -> Access:
    """`access`, keeping in the repository what is received of blobs until a pull is complete."""
    return replace(access, downloads=repo.private_directory(DOWNLOADS))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of which everything is stored, if not yet visible."""

    streams: dict[str, bytes]
    """Content id -> digest of each stream, the manifest's last."""
    images: dict[int, bytes]
    """Digests of the image files by version of the format."""
    new_layers: int
    """Layers that the repository did not have."""
    visible: bool
    """All of it was there before, and visible."""


def import_image(
    repo: Repository,
    source: BlobSource,
    manifest_data: bytes,
    manifest: Manifest,
    manifest_digest: str,
    name: str,
    *,
    xattrs: XattrMode,
    progress: Progress,
    limits: Limits = DEFAULT_LIMITS,
    stored: Mapping[str, bytes] | None = None,
) -> PulledImage:
    """Store the image as `store_image` does, make it visible, and call it `name`."""
    encode_tag(name)  # a name that is none must not be found out at the end
    image = store_image(
        repo,
        source,
        manifest_data,
        manifest,
        manifest_digest,
        xattrs=xattrs,
        progress=progress,
        limits=limits,
        stored=stored,
    )
    if not image.visible:
        repo.publish(image.streams, image.images.values())
    repo.tag(name, MANIFEST_PREFIX + manifest_digest)
    return PulledImage(
        image.images[repo.meta.erofs_default].hex(),
        manifest_digest,
        manifest.config.digest,
        name,
        len(manifest.layers),
        image.new_layers,
    )


def store_image(
    repo: Repository,
    source: BlobSource,
    manifest_data: bytes,
    manifest: Manifest,
    manifest_digest: str,
    *,
    xattrs: XattrMode,
    progress: Progress,
    limits: Limits = DEFAULT_LIMITS,
    stored: Mapping[str, bytes] | None = None,
) -> StoredImage:
    """Store the image of a manifest whose bytes were checked; its blobs come from `source`.

    `stored`: layers that are in the object store already (diff id -> digest of the stream).
    """
    repo.check_writable()
    config_data = read_document(source, manifest.config)
    documents = _Documents(
        manifest_data,
        manifest,
        manifest_digest,
        config_data,
        parse_config(config_data, f"configuration {manifest.config.digest}"),
    )
    documents.check()
    _warn_of_platform(documents.config, progress)

    layers = {**_known_layers(repo, documents.config), **(stored or {})}
    jobs = documents.jobs(layers)
    if not jobs and (found := _made_before(repo, documents, layers, xattrs)) is not None:
        return found
    merger = Merger(xattrs, limits=limits, warn=progress.message)
    with paused_gc():
        _merge_layers(repo, source, documents.config, layers, jobs, merger, limits, progress)
        images = _store_images(repo, merger, progress)
    return _store_documents(repo, documents, layers, images, xattrs, len(jobs))


@dataclass(frozen=True, slots=True)
class _Documents:
    """Manifest and configuration of an image: their bytes, and what they say."""

    manifest_data: bytes
    manifest: Manifest
    manifest_digest: str
    config_data: bytes
    config: ImageConfig

    @property
    def manifest_id(self) -> str:
        """What the manifest's stream is called."""
        return MANIFEST_PREFIX + self.manifest_digest

    @property
    def config_id(self) -> str:
        """What the configuration's stream is called."""
        return CONFIG_PREFIX + self.manifest.config.digest

    def check(self) -> None:
        """InputError: the two do not belong together."""
        if len(self.config.diff_ids) != len(self.manifest.layers):
            raise InputError(
                f"configuration {self.manifest.config.digest}: {len(self.config.diff_ids)} "
                f"layers, but the manifest has {len(self.manifest.layers)}"
            )

    def manifest_refs(self, layers: Mapping[str, bytes], config: bytes) -> dict[str, bytes]:
        """What the manifest's stream refers to: the configuration's stream, and the layers'."""
        refs = {diff_id: layers[diff_id] for diff_id in self.config.diff_ids}
        return {CONFIG_REF + self.manifest.config.digest: config, **refs}

    def streams(
        self, layers: Mapping[str, bytes], config: bytes, manifest: bytes
    ) -> dict[str, bytes]:
        """All streams of the image: content id -> digest."""
        streams = {LAYER_PREFIX + diff_id: layers[diff_id] for diff_id in self.config.diff_ids}
        return {**streams, self.config_id: config, self.manifest_id: manifest}

    def jobs(self, known: Mapping[str, bytes]) -> list[LayerJob]:
        """The layers to import, each once: all but the `known` ones."""
        pairs = zip(self.config.diff_ids, self.manifest.layers, strict=True)
        return [
            LayerJob(diff_id, descriptor)
            for diff_id, descriptor in dict(pairs).items()
            if diff_id not in known
        ]


def _known_layers(repo: Repository, config: ImageConfig) -> dict[str, bytes]:
    """The layers that the repository has, whole: diff id -> digest of the split stream.

    One that is cut off, or whose objects are not all there, is left out, so that pulling again
    brings it back.
    """
    known = {}
    for diff_id in config.diff_ids:
        digest = repo.stream_id(LAYER_PREFIX + diff_id)
        if digest is None or not repo.objects.has(digest):
            continue
        try:
            stream = SplitStream.parse(_map_object(repo, digest), LAYER_PREFIX + diff_id)
        except RepositoryError:
            continue
        if repo.objects.has_all(stream.object_refs):
            known[diff_id] = digest
    return known


def _made_before(
    repo: Repository, documents: _Documents, layers: Mapping[str, bytes], xattrs: XattrMode
) -> StoredImage | None:
    """The image if it was pulled before; None: it has to be made.

    All of it must be there, and be what pulling would make: both documents, the layers, image
    files that are whole.
    """
    config_stream = repo.stream_id(documents.config_id)
    manifest_stream = repo.stream_id(documents.manifest_id)
    if config_stream is None or manifest_stream is None:
        return None
    try:
        config = repo.read_stream(config_stream, documents.config_id, OCI_CONFIG)
        manifest = repo.read_stream(manifest_stream, documents.manifest_id, OCI_MANIFEST)
        images = {
            version: config.named_refs[IMAGE_REFS[version]]
            for version in (repo.meta.erofs_default, *repo.meta.erofs_extra)
        }
        made_with_all = config.named_refs.get(_all_xattrs(repo.meta.erofs_default))
        made_with = XattrMode.ALL if made_with_all in images.values() else XattrMode.OCI
        if (
            made_with is not xattrs
            or documents.manifest_refs(layers, config_stream) != manifest.named_refs
            or any(config.named_refs.get(diff_id) != layers[diff_id] for diff_id in layers)
            or not _holds(repo, config, documents.config_data)
            or not _holds(repo, manifest, documents.manifest_data)
        ):
            return None
        for digest in images.values():
            repo.open_image(digest.hex()).close()  # checks it
    except (KeyError, NotFoundError, RepositoryError):
        return None
    streams = documents.streams(layers, config_stream, manifest_stream)
    return StoredImage(streams, images, 0, visible=True)


def _holds(repo: Repository, stream: SplitStream, document: bytes) -> bool:
    digest = fsverity.digest(document, repo.algorithm)
    return list(stream.chunks()) == [digest] and repo.objects.has(digest)


def _all_xattrs(version: int) -> str:
    """A second reference to an image file that was made with `XattrMode.ALL`, to tell it by."""
    return f"{IMAGE_REFS[version]}.xattrs={XattrMode.ALL}"


def _merge_layers(
    repo: Repository,
    source: BlobSource,
    config: ImageConfig,
    layers: dict[str, bytes],
    jobs: list[LayerJob],
    merger: Merger,
    limits: Limits,
    progress: Progress,
) -> None:
    """Import what is missing, into `layers`; merge each layer as soon as all below it are there."""
    waiting = deque(config.diff_ids)

    def merge_complete() -> None:
        while waiting and waiting[0] in layers:
            diff_id = waiting.popleft()
            name = f"layer {diff_id}"
            stream = SplitStream.parse(_map_object(repo, layers[diff_id]), name)
            members = read_layer(stream, repo.objects, only_schily=merger.mode is XattrMode.OCI)
            merger.add_layer(members, name)

    imported = import_layers(jobs, source, repo.objects, progress, limits)
    with contextlib.closing(imported):
        merge_complete()
        for diff_id, stored in imported:
            layers[diff_id] = stored.digest
            merge_complete()


def _store_images(repo: Repository, merger: Merger, progress: Progress) -> dict[int, bytes]:
    """Store the image file of the merged layers in each version that the repository makes.

    Returns the digests by version.
    """
    task = "image"
    progress.start(task, None)
    if merger.dropped_xattrs:
        progress.message(
            f"{merger.dropped_xattrs} extended attributes user.cfs.* of the layers were left out"
        )
    root = merger.finish()
    images = {}
    for version in (repo.meta.erofs_default, *repo.meta.erofs_extra):
        with repo.objects.writer() as out:
            write_image(root, out.write, min_version=version, max_version=max(version, 1))
            progress.advance(task, out.size)
            images[version] = out.commit()
    progress.finish(task)
    return images


def _store_documents(
    repo: Repository,
    documents: _Documents,
    layers: Mapping[str, bytes],
    images: dict[int, bytes],
    xattrs: XattrMode,
    new_layers: int,
) -> StoredImage:
    """Store the streams of configuration and manifest, with what they refer to."""
    refs = {diff_id: layers[diff_id] for diff_id in documents.config.diff_ids}
    image_refs = {IMAGE_REFS[version]: digest for version, digest in images.items()}
    # Images made in other ways (another version, for booting) stay referred to.
    others = _other_images(repo, documents.config_id)
    marks = {_all_xattrs(version): digest for version, digest in images.items()}
    if xattrs is XattrMode.ALL:
        others.update(marks)
    else:
        others = {name: value for name, value in others.items() if marks.get(name) != value}
    config = _store_document(
        repo,
        documents.config_id,
        OCI_CONFIG,
        documents.config_data,
        {**refs, **others, **image_refs},
    )
    manifest = _store_document(
        repo,
        documents.manifest_id,
        OCI_MANIFEST,
        documents.manifest_data,
        documents.manifest_refs(layers, config),
    )
    streams = documents.streams(layers, config, manifest)
    return StoredImage(streams, images, new_layers, visible=False)


def _other_images(repo: Repository, content_id: str) -> dict[str, bytes]:
    """The image files that the configuration's stream refers to already, as far as they exist."""
    if repo.stream_id(content_id) is None:
        return {}
    return {
        name: digest
        for name, digest in repo.open_stream(content_id, OCI_CONFIG).named_refs.items()
        if name.startswith(IMAGE_REF_PREFIX) and repo.objects.has(digest)
    }


def _store_document(
    repo: Repository, content_id: str, content_type: int, data: bytes, refs: dict[str, bytes]
) -> bytes:
    """Store a document's stream; returns its digest. One that says the same already is kept."""
    document = repo.objects.put(data)
    known = repo.stream_id(content_id)
    if known is not None:
        stream = repo.open_stream(content_id, content_type)
        if stream.named_refs == refs and list(stream.chunks()) == [document]:
            return known
    writer = SplitStreamWriter(repo.algorithm, content_type)
    for name, digest in refs.items():
        writer.named_ref(name, digest)
    writer.external(document, len(data))
    return repo.objects.put(writer.finish())


def _map_object(repo: Repository, digest: bytes) -> mmap.mmap:
    """The object `digest` in memory, which its last view gives back: a stream can be large."""
    fd = repo.objects.open(digest)
    try:
        return mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    except ValueError:
        raise repo.objects.damaged(digest) from None  # empty: cannot be mapped, is no stream
    finally:
        os.close(fd)


def _warn_of_platform(config: ImageConfig, progress: Progress) -> None:
    own = own_platform()
    if config.platform.os and (
        (config.platform.os, config.platform.architecture) != (own.os, own.architecture)
    ):
        progress.message(f"the image is for {config.platform}, this machine is {own}")
