"""What there is to say about an image beside its name: dates, platform, layers, sizes.

The OCI documents are shown as they are stored; a field that is missing or of the wrong type is left
empty, since a document was checked when it was pulled and only its display depends on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cfsrepo.errors import NotFoundError, RepositoryError
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_MANIFEST, Digest, SplitStream
from cfsrepo.images.names import ImageName
from cfsrepo.store import ocistreams
from cfsrepo.store.repository import Repository


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer of an image, lowest first."""

    digest: str
    """Of the blob, `sha256:HEX`."""
    media_type: str
    size: int
    """Bytes of the blob."""
    diff_id: str
    """Digest of the archive in the blob; the layer's stream is named by it."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image with what its OCI documents say; those are empty for one that came otherwise."""

    image: ImageName
    image_size: int
    """Bytes of the image file, which holds all metadata and the smallest files."""
    created: str
    """RFC 3339, as the config says."""
    platform: str
    """`linux/amd64`, `linux/arm64/v8`."""
    layers: tuple[LayerInfo, ...]
    manifest: bytes
    """The manifest's JSON, byte for byte."""
    config: bytes
    """The config's JSON, byte for byte."""

    @property
    def packed_size(self) -> int:
        """Bytes of all layers' blobs."""
        return sum(layer.size for layer in self.layers)


def image_info(repository: Repository, image: ImageName) -> ImageInfo:
    """Read what is known of `image`; `RepositoryError` where a document is damaged."""
    size = None
    if repository.has_image(image.image_id):
        size = repository.objects.size(bytes.fromhex(image.image_id))
    if size is None:
        raise NotFoundError(f"{image.name}: its image file is missing", hint="run 'cfs fsck'")
    if image.manifest_digest is None:
        return ImageInfo(image, size, "", "", (), b"", b"")
    name = ocistreams.MANIFEST_PREFIX + image.manifest_digest
    stream = repository.open_stream(name, OCI_MANIFEST)
    manifest = document(repository, stream)
    config_ref = ocistreams.manifest_config(stream)
    if config_ref is None:
        raise RepositoryError(f"{name}: names no config")
    config = document(
        repository,
        repository.read_stream(config_ref[1], ocistreams.CONFIG_PREFIX + config_ref[0], OCI_CONFIG),
    )
    config_json = _parse(config, config_ref[0])
    manifest_json = _parse(manifest, name)
    diff_ids = [d for d in _list(_dict(config_json, "rootfs"), "diff_ids") if isinstance(d, str)]
    layers = []
    for number, layer in enumerate(_list(manifest_json, "layers")):
        if isinstance(layer, dict):
            layers.append(
                LayerInfo(
                    _text(layer, "digest"),
                    _text(layer, "mediaType"),
                    layer["size"] if isinstance(layer.get("size"), int) else 0,
                    diff_ids[number] if number < len(diff_ids) else "",
                )
            )
    platform = [_text(config_json, key) for key in ("os", "architecture", "variant")]
    return ImageInfo(
        image,
        size,
        _text(config_json, "created"),
        "/".join(part for part in platform if part),
        tuple(layers),
        manifest,
        config,
    )


def document(repository: Repository, stream: SplitStream) -> bytes:
    """The content of a stream that holds a document: its chunks with the objects read."""
    return b"".join(
        repository.objects.read(chunk) if isinstance(chunk, Digest) else chunk
        for chunk in stream.chunks()
    )


def _parse(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RepositoryError(f"{name}: no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RepositoryError(f"{name}: no JSON object")
    return value


def _dict(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _list(value: dict[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
