"""Pulling an image: layers, configuration and manifest into a repository, and its image file.

    streams/oci-layer-DIFFID       the layer's archive, big files as objects
    streams/oci-config-DIGEST      the configuration; refers to the layers by diff id, and to the
                                   image file as `composefs.image.v1` (`composefs.image` for
                                   version 2)
    streams/oci-manifest-DIGEST    the manifest; refers to the configuration as `config:DIGEST` and
                                   to the layers
    streams/refs/oci/NAME          keeps all of it

These are the names and references that cfsctl uses and keeps. An image pulled again with another
choice of extended attributes has another image file, and the configuration then refers to that one.

Nothing becomes visible before everything is stored and checked: a pull that fails, for whatever
reason, leaves objects that nothing refers to and no other trace.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from cfsrepo.errors import InputError, RepositoryError
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_MANIFEST, SplitStream, SplitStreamWriter
from cfsrepo.formats.tree import paused_gc
from cfsrepo.oci.documents import ImageConfig, Manifest, parse_config
from cfsrepo.oci.layers import read_layer
from cfsrepo.oci.merge import Merger, XattrMode
from cfsrepo.oci.transports.imagelayout import ImageSource, Layout, own_platform, read_document
from cfsrepo.oci.transports.reference import parse_reference
from cfsrepo.oci.workers import LayerJob, import_layers
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
    progress: Progress | None = None,
) -> PulledImage:
    """Pull the image `source` (`oci:DIR[:REF]`) and call it `name` (None: a name made from it).

    Raises UsageError for a source that is none, NotFoundError where there is no such image,
    InputError for one that is damaged or hostile, OSError where it cannot be stored.
    """
    progress = progress or NoProgress()
    reference = parse_reference(source)
    with Layout(reference.directory) as layout:
        descriptor = layout.find(reference.ref)
        data, manifest = layout.manifest(descriptor)
        return import_image(
            repo,
            layout,
            data,
            manifest,
            descriptor.digest,
            name or reference.default_name(),
            xattrs=xattrs,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of which everything is stored, and nothing visible yet."""

    streams: dict[str, bytes]
    """Content id -> digest of each stream, the manifest's last."""
    images: dict[int, bytes]
    """Digests of the image files by version of the format."""
    new_layers: int
    """Layers that the repository did not have."""


def import_image(
    repo: Repository,
    source: ImageSource,
    manifest_data: bytes,
    manifest: Manifest,
    manifest_digest: str,
    name: str,
    *,
    xattrs: XattrMode,
    progress: Progress,
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
        stored=stored,
    )
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
    source: ImageSource,
    manifest_data: bytes,
    manifest: Manifest,
    manifest_digest: str,
    *,
    xattrs: XattrMode,
    progress: Progress,
    stored: Mapping[str, bytes] | None = None,
) -> StoredImage:
    """Store the image of a manifest whose bytes were checked; its blobs come from `source`.

    `stored`: layers that are in the object store already (diff id -> digest of the stream).
    """
    repo.check_writable()
    config_name = f"configuration {manifest.config.digest}"
    config_data = read_document(source, manifest.config)
    config = parse_config(config_data, config_name)
    if len(config.diff_ids) != len(manifest.layers):
        raise InputError(
            f"{config_name}: {len(config.diff_ids)} layers, but the manifest has "
            f"{len(manifest.layers)}"
        )
    _warn_of_platform(config, progress)

    layers = {**_known_layers(repo, config), **(stored or {})}
    jobs = [
        LayerJob(diff_id, descriptor)
        for diff_id, descriptor in dict(zip(config.diff_ids, manifest.layers, strict=True)).items()
        if diff_id not in layers
    ]
    merger = Merger(xattrs)
    with paused_gc():
        _merge_layers(repo, source, config, layers, jobs, merger, progress)
        images = _store_images(repo, merger, progress)

    refs = {diff_id: layers[diff_id] for diff_id in config.diff_ids}
    streams = {LAYER_PREFIX + diff_id: digest for diff_id, digest in refs.items()}
    content_id = CONFIG_PREFIX + manifest.config.digest
    image_refs = {IMAGE_REFS[version]: digest for version, digest in images.items()}
    # Images made in other ways (another version, for booting) stay referred to.
    refs_and_images = {**refs, **_other_images(repo, content_id), **image_refs}
    config_stream = _store_document(repo, content_id, OCI_CONFIG, config_data, refs_and_images)
    streams[content_id] = config_stream
    content_id = MANIFEST_PREFIX + manifest_digest
    refs = {CONFIG_REF + manifest.config.digest: config_stream, **refs}
    streams[content_id] = _store_document(repo, content_id, OCI_MANIFEST, manifest_data, refs)
    return StoredImage(streams, images, len(jobs))


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
        if all(map(repo.objects.has, stream.object_refs)):
            known[diff_id] = digest
    return known


def _merge_layers(
    repo: Repository,
    source: ImageSource,
    config: ImageConfig,
    layers: dict[str, bytes],
    jobs: list[LayerJob],
    merger: Merger,
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

    with contextlib.closing(import_layers(jobs, source, repo.objects, progress)) as imported:
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
