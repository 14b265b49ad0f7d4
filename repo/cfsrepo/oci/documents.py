"""The JSON documents of an image: descriptor, index, manifest, configuration. Bytes to values.

A document is kept byte for byte; what is made here is only what a pull needs to know of it. What is
not as the OCI image specification (v1.1) wants it is an `InputError`. Docker's manifest list,
manifest (schema 2) and configuration have the same shape and are taken for their OCI twins.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cfsrepo.errors import DigestMismatchError, InputError, LimitError, printable

DOCUMENT_MAX = 4 << 20  # bytes of a manifest, index or configuration: what registries accept
LAYERS_MAX = 4096
DESCRIPTORS_MAX = 1 << 16

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
INDEX_TYPES = frozenset({f"{_OCI}index.v1+json", f"{_DOCKER}distribution.manifest.list.v2+json"})
MANIFEST_TYPES = frozenset({f"{_OCI}manifest.v1+json", f"{_DOCKER}distribution.manifest.v2+json"})
CONFIG_TYPES = frozenset({f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json"})
MANIFEST_TYPE = f"{_OCI}manifest.v1+json"
CONFIG_TYPE = f"{_OCI}config.v1+json"
LAYER_TYPE = f"{_OCI}layer.v1.tar"
INDEX_TYPE = f"{_OCI}index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Compression(StrEnum):
    """How a layer's archive is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


LAYER_TYPES = {
    f"{_OCI}layer.v1.tar": Compression.NONE,
    f"{_OCI}layer.v1.tar+gzip": Compression.GZIP,
    f"{_OCI}layer.v1.tar+zstd": Compression.ZSTD,
    f"{_OCI}layer.nondistributable.v1.tar": Compression.NONE,
    f"{_OCI}layer.nondistributable.v1.tar+gzip": Compression.GZIP,
    f"{_OCI}layer.nondistributable.v1.tar+zstd": Compression.ZSTD,
    f"{_DOCKER}image.rootfs.diff.tar": Compression.NONE,
    f"{_DOCKER}image.rootfs.diff.tar.gzip": Compression.GZIP,
    f"{_DOCKER}image.rootfs.diff.tar.zstd": Compression.ZSTD,
    f"{_DOCKER}image.rootfs.foreign.diff.tar.gzip": Compression.GZIP,
}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words (`linux`, `amd64`, `v8`)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob: its type, digest (`sha256:HEX`) and size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def ref_name(self) -> str | None:
        """What an image layout's index calls it."""
        return self.annotations.get(REF_NAME)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest."""

    config: Descriptor
    layers: list[Descriptor]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image configuration: the digests of the layers' archives, lowest first."""

    diff_ids: list[str]
    platform: Platform


def parse_index(data: bytes, name: str) -> list[Descriptor]:
    """The descriptors of an image index; `name` is what errors call it."""
    document = _document(data, name)
    manifests = _list(document, "manifests", name, DESCRIPTORS_MAX)
    return [_descriptor(item, f"{name}: manifests") for item in manifests]


def parse_manifest(data: bytes, name: str) -> Manifest:
    """An image manifest. One that is an artifact (no image configuration) is refused."""
    document = _document(data, name)
    if document.get("schemaVersion") != 2:
        raise InputError(f"{name}: no manifest of schema version 2")
    config = _descriptor(document.get("config"), f"{name}: config")
    if config.media_type not in CONFIG_TYPES:
        raise InputError(
            f"{name}: unknown type of the configuration: {config.media_type[:200]}",
            hint="only container images can be pulled, not other artifacts",
        )
    layers = [
        _descriptor(item, f"{name}: layers") for item in _list(document, "layers", name, LAYERS_MAX)
    ]
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise InputError(
                f"{name}: unknown type of layer {layer.digest}: {layer.media_type[:200]}",
                hint="layers are tar archives, plain or packed by gzip or zstd",
            )
    return Manifest(config, layers)


def parse_config(data: bytes, name: str) -> ImageConfig:
    """An image configuration."""
    document = _document(data, name)
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type", "layers") != "layers":
        raise InputError(f"{name}: rootfs is not of type layers")
    diff_ids = [
        parse_digest(item, f"{name}: diff_ids")
        for item in _list(rootfs, "diff_ids", name, LAYERS_MAX)
    ]
    return ImageConfig(diff_ids, _platform(document, name))


def parse_digest(value: object, name: str) -> str:
    """`value` if it is a digest of an algorithm we have."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        shown = value if isinstance(value, str) else type(value).__name__
        raise InputError(f"{name}: no digest by sha256 or sha512: {printable(shown)[:200]}")
    return value


def check_digest(data: bytes, digest: str, name: str) -> None:
    """DigestMismatchError unless `data` has `digest`."""
    algorithm, _, wanted = digest.partition(":")
    found = hashlib.new(algorithm, data).hexdigest()
    if found != wanted:
        raise DigestMismatchError(f"{name}: its digest is {algorithm}:{found}, not {digest}")


def _document(data: bytes, name: str) -> dict[str, Any]:
    if len(data) > DOCUMENT_MAX:
        raise LimitError(f"{name}: over {DOCUMENT_MAX} bytes")
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise InputError(f"{name}: JSON nested too deeply") from error
    except ValueError as error:  # no JSON, no UTF-8, a number of too many digits
        raise InputError(f"{name}: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{name}: no JSON object")
    return document


def _list(document: dict[str, Any], key: str, name: str, limit: int) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise InputError(f"{name}: {key} is no list")
    if len(value) > limit:
        raise LimitError(f"{name}: {len(value)} {key} (at most {limit})")
    return value


def _string(document: dict[str, Any], key: str, name: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise InputError(f"{name}: {key} is no string")
    return value


def _descriptor(value: object, name: str) -> Descriptor:
    if not isinstance(value, dict):
        raise InputError(f"{name}: no descriptor")
    size = value.get("size")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise InputError(f"{name}: a descriptor without a size")
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InputError(f"{name}: annotations are no object")
    platform = value.get("platform")
    if platform is not None and not isinstance(platform, dict):
        raise InputError(f"{name}: platform is no object")
    return Descriptor(
        _string(value, "mediaType", name),
        parse_digest(value.get("digest"), name),
        size,
        None if platform is None else _platform(platform, name),
        {key: text for key, text in annotations.items() if isinstance(text, str)},
    )


def _platform(document: dict[str, Any], name: str) -> Platform:
    return Platform(
        _string(document, "os", name),
        _string(document, "architecture", name),
        _string(document, "variant", name),
    )
