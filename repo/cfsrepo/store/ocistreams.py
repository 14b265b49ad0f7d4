"""What the streams of an OCI image are called, and the references between them.

A manifest's stream names its config's stream, a config's stream the image file. The names are those
that cfsctl gives them (the module `repository_format` of the crate `composefs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cfsrepo.formats.splitstream import SplitStream

MANIFEST_PREFIX: Final = "oci-manifest-"
CONFIG_PREFIX: Final = "oci-config-"
LAYER_PREFIX: Final = "oci-layer-"
BLOB_PREFIX: Final = "oci-blob-"
CONFIG_REF: Final = "config:"
IMAGE_REF_PREFIX: Final = "composefs.image"
# What the stream of a config calls the image file, by version of the format. V0 shares V1's key.
IMAGE_REFS: Final = {0: "composefs.image.v1", 1: "composefs.image.v1", 2: "composefs.image"}


def manifest_config(stream: SplitStream) -> tuple[str, bytes] | None:
    """The config that a manifest's stream names: (its OCI digest, digest of its stream)."""
    for name, digest in stream.named_refs.items():
        if name.startswith(CONFIG_REF):
            return name[len(CONFIG_REF) :], digest
    return None


def config_image(stream: SplitStream, versions: Iterable[int] = (1, 2)) -> bytes | None:
    """The image file that a config's stream names, of the first of `versions` that it has."""
    for version in versions:
        if (digest := stream.named_refs.get(IMAGE_REFS[version])) is not None:
            return digest
    return None
