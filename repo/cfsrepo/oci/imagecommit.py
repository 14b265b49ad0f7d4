"""A bare-user tree as an OCI image: the base image's layers, and a new one with the difference.

The new layer is kept as a plain archive (type `...layer.v1.tar`): its blob is its split stream's
content, so nothing has to be packed twice. Configuration and manifest are the base's with the layer
added; `created` is the latest mtime in it, so the same tree gives the same digests whenever it is
committed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from typing import Any

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_MANIFEST, Digest, SplitStream
from cfsrepo.formats.tree import directory
from cfsrepo.images import names
from cfsrepo.images.imagetree import load_image
from cfsrepo.oci.documents import Descriptor, parse_manifest
from cfsrepo.oci.importer import PulledImage, import_image
from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.newlayer import NewLayer, store_difference
from cfsrepo.oci.transports.blob import Blob, MemoryBlob
from cfsrepo.oci.transports.platforms import own_platform
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store.ocistreams import CONFIG_PREFIX, MANIFEST_PREFIX
from cfsrepo.store.refs import encode_tag
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.commit import CommittedImage
from cfsrepo.worktree.scan import scan_bare_tree

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_BASE_DIGEST = "org.opencontainers.image.base.digest"
_CREATED_BY = "cfs commit"
_YEAR_10000 = 253402300800


def commit_oci(
    repo: Repository,
    path: str,
    name: str,
    *,
    base: str | None = None,
    adopt: bool = False,
    xattrs: XattrMode = XattrMode.OCI,
    progress: Progress | None = None,
) -> CommittedImage:
    """Commit the tree in the directory `path` as the OCI image `name`.

    `base`: the OCI image that it was checked out from (None: the image has one layer with all).
    `adopt`: as with `cfsrepo.worktree.commit`.
    A tree that is the base's gives the base's image another name. Raises what
    that does, and RepositoryError where `base` is no OCI image.
    """
    progress = progress or NoProgress()
    repo.check_writable()
    encode_tag(name)
    base_tree = directory() if base is None else load_image(repo, base, progress)
    tree = scan_bare_tree(path, base_tree, store=repo.objects, adopt=adopt, progress=progress)
    manifest, config = _documents(repo, base)
    layer = store_difference(base_tree, tree.root, repo.objects)
    if base is not None and not layer.entries:
        found = names.resolve(repo, base)
        assert found.manifest_digest is not None
        repo.tag(name, MANIFEST_PREFIX + found.manifest_digest)
        return CommittedImage.of(found.image_id, tree)
    pulled = _store(repo, manifest, config, layer, name, xattrs, progress)
    return CommittedImage.of(pulled.image_id, tree)


def _documents(repo: Repository, base: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and configuration to add a layer to."""
    if base is None:
        platform = own_platform()
        config: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
        if platform.variant:
            config["variant"] = platform.variant
        config |= {"config": {}, "rootfs": {"type": "layers", "diff_ids": []}, "history": []}
        return {"schemaVersion": 2, "mediaType": _MANIFEST, "layers": []}, config
    found = names.resolve(repo, base)
    if found.manifest_digest is None or found.config_digest is None:
        raise RepositoryError(
            f"{base}: no OCI image, so no base for one",
            hint="without --base the new image has one layer that holds everything",
        )
    stream = repo.open_stream(MANIFEST_PREFIX + found.manifest_digest, OCI_MANIFEST)
    manifest = json.loads(_document(repo, stream))
    stream = repo.open_stream(CONFIG_PREFIX + found.config_digest, OCI_CONFIG)
    config = json.loads(_document(repo, stream))
    manifest["annotations"] = {**(manifest.get("annotations") or {})}
    manifest["annotations"][_BASE_DIGEST] = found.manifest_digest
    return manifest, config


def _document(repo: Repository, stream: SplitStream) -> bytes:
    return b"".join(
        repo.objects.read(part) if isinstance(part, Digest) else part for part in stream.chunks()
    )


def _store(
    repo: Repository,
    manifest: dict[str, Any],
    config: dict[str, Any],
    layer: NewLayer,
    name: str,
    xattrs: XattrMode,
    progress: Progress,
) -> PulledImage:
    """Add `layer` to the documents, store and tag it all, and make the image of it."""
    created = _created(layer.newest)
    config["created"] = created
    config["rootfs"]["diff_ids"].append(layer.diff_id)
    history = config.get("history") or []
    config["history"] = [*history, {"created": created, "created_by": _CREATED_BY}]
    config_data = _json(config)
    source = _Document(config_data, _CONFIG)
    manifest["config"] = source.as_json()
    manifest["layers"].append({"mediaType": _LAYER, "digest": layer.diff_id, "size": layer.size})
    data = _json(manifest)
    digest = _Document(data, _MANIFEST).descriptor.digest
    return import_image(
        repo,
        source,
        data,
        parse_manifest(data, f"manifest {digest}"),
        digest,
        name,
        xattrs=xattrs,
        progress=progress,
        stored={layer.diff_id: layer.stream},
    )


def _created(seconds: int) -> str:
    seconds = min(max(seconds, 0), _YEAR_10000 - 1)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


class _Document:
    """A document that is in memory, as the source of its only blob."""

    def __init__(self, data: bytes, media_type: str) -> None:
        self._data = data
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.descriptor = Descriptor(media_type, digest, len(data))

    def as_json(self) -> dict[str, Any]:
        """The descriptor as it stands in a manifest."""
        found = self.descriptor
        return {"mediaType": found.media_type, "digest": found.digest, "size": found.size}

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """See `BlobSource`."""
        if descriptor.digest != self.descriptor.digest:
            raise RepositoryError(f"layer {descriptor.digest} of the base image is missing")
        return MemoryBlob(self._data, descriptor, f"configuration {descriptor.digest}")
