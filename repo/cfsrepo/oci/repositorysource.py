"""An image of a repository, as it was pulled: what a push sends.

Manifest and configuration are stored byte for byte. A layer that was a plain archive is put
together from its split stream. Of a packed one only the archive is there, and packing it again
gives other bytes: it comes from its blob where that was kept (`oci-blob-DIGEST`). Else the image
can be sent with layers packed afresh and a manifest that says so: `repack`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Final

from cfsrepo.errors import NotFoundError, RepositoryError
from cfsrepo.formats.splitstream import (
    OCI_BLOB,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Digest,
    SplitStream,
)
from cfsrepo.images import names
from cfsrepo.images.imageinfo import document
from cfsrepo.oci.documents import (
    INDEX_TYPES,
    LAYER_TYPE,
    LAYER_TYPES,
    MANIFEST_TYPE,
    Compression,
    Descriptor,
    Manifest,
    parse_config,
    parse_manifest,
)
from cfsrepo.oci.transports.blob import Blob, FileBlob, MemoryBlob, PieceBlob
from cfsrepo.store.ocistreams import BLOB_PREFIX, CONFIG_PREFIX, LAYER_PREFIX, MANIFEST_PREFIX
from cfsrepo.store.repository import Repository
from cfsrepo.system.closing import Closing

_READ: Final = 1 << 20
_LEVEL: Final = 6


class RepositorySource(Closing):
    """An image of a repository. A context manager."""

    def __init__(self, repo: Repository, image: str, *, plain: bool = False) -> None:
        """`plain`: layers are wanted as plain archives, whatever they were.

        NotFoundError where there is no such image, or where it is no OCI image.
        """
        self.name = image
        self._repo = repo
        found = names.resolve(repo, image)
        if found.manifest_digest is None:
            raise NotFoundError(
                f"{image}: an image file without OCI documents",
                hint="'cfs commit --oci' makes an OCI image of a checkout",
            )
        name = MANIFEST_PREFIX + found.manifest_digest
        self._data = document(repo, repo.open_stream(name, OCI_MANIFEST))
        self.manifest: Manifest = parse_manifest(self._data, f"{image}: manifest")
        config_name = CONFIG_PREFIX + self.manifest.config.digest
        self._config = document(repo, repo.open_stream(config_name, OCI_CONFIG))
        config = parse_config(self._config, f"{image}: configuration")
        layers = self.manifest.layers
        self._diff_ids = dict(
            zip([layer.digest for layer in layers], config.diff_ids, strict=False)
        )
        self._packed: dict[str, IO[bytes]] = {}
        if plain:
            self._replace({layer.digest: self._plain(layer) for layer in layers})

    def close(self) -> None:
        """Forget the layers that were packed afresh."""
        for file in self._packed.values():
            file.close()
        self._packed.clear()

    def find(self) -> list[Descriptor]:
        """The image's manifest."""
        digest = f"sha256:{hashlib.sha256(self._data).hexdigest()}"
        media_type = json.loads(self._data).get("mediaType") or MANIFEST_TYPE
        assert media_type not in INDEX_TYPES
        return [Descriptor(media_type, digest, len(self._data))]

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The manifest's bytes."""
        return self._data

    def missing(self) -> list[Descriptor]:
        """The layers whose blobs cannot be given back byte for byte."""
        return [layer for layer in self.manifest.layers if not self._has(layer)]

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """A blob of the image. RepositoryError for one that was not kept."""
        name = f"{self.name}: {descriptor.digest}"
        if descriptor.digest == self.manifest.config.digest:
            return MemoryBlob(self._config, descriptor, name)
        file = self._packed.get(descriptor.digest)
        if file is not None:
            return FileBlob(os.dup(file.fileno()), descriptor, name)
        kept = BLOB_PREFIX + descriptor.digest
        if self._repo.stream_id(kept) is not None:
            stream = self._repo.open_stream(kept, OCI_BLOB)
            return PieceBlob(_content(self._repo, stream), descriptor, name)
        if not self._has(descriptor):
            raise RepositoryError(
                f"{name}: the packed layer was not kept",
                hint="--recompress packs layers afresh, which changes the manifest's digest",
            )
        return PieceBlob(self._archive(descriptor), descriptor, name)

    def repack(self) -> list[str]:
        """Pack the layers afresh whose blobs were not kept, by gzip, and say so in the manifest.

        Returns the digests that they had. The same layers always give the same bytes.
        """
        missing = {layer.digest: self._pack(layer) for layer in self.missing()}
        self._replace(missing)
        return list(missing)

    def _has(self, layer: Descriptor) -> bool:
        return (
            layer.digest in self._packed
            or self._diff_ids.get(layer.digest) == layer.digest
            or self._repo.stream_id(BLOB_PREFIX + layer.digest) is not None
        )

    def _archive(self, layer: Descriptor) -> Iterator[bytes]:
        """The archive of a layer, whatever it was packed by."""
        diff_id = self._diff_ids[layer.digest]
        stream = self._repo.open_stream(LAYER_PREFIX + diff_id, OCI_LAYER)
        return _content(self._repo, stream)

    def _plain(self, layer: Descriptor) -> dict[str, Any]:
        """The layer's descriptor as a plain archive."""
        diff_id = self._diff_ids[layer.digest]
        if LAYER_TYPES[layer.media_type] is Compression.NONE:
            size = layer.size
        else:
            size = self._repo.open_stream(LAYER_PREFIX + diff_id, OCI_LAYER).size
        return {"mediaType": LAYER_TYPE, "digest": diff_id, "size": size}

    def _pack(self, layer: Descriptor) -> dict[str, Any]:
        file = tempfile.TemporaryFile(dir=self._repo.private_directory("downloads"))  # noqa: SIM115
        found = hashlib.sha256()
        packer = zlib.compressobj(_LEVEL, wbits=31)
        for piece in self._archive(layer):
            data = packer.compress(piece)
            file.write(data)
            found.update(data)
        data = packer.flush()
        file.write(data)
        file.flush()
        found.update(data)
        digest = f"sha256:{found.hexdigest()}"
        self._packed[digest] = file
        return {"mediaType": f"{LAYER_TYPE}+gzip", "digest": digest, "size": file.tell()}

    def _replace(self, layers: dict[str, dict[str, Any]]) -> None:
        """Put other descriptors of layers into the manifest."""
        manifest = json.loads(self._data)
        if not layers or all(found["digest"] == digest for digest, found in layers.items()):
            return
        manifest["layers"] = [layers.get(item["digest"], item) for item in manifest["layers"]]
        self._data = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
        self.manifest = parse_manifest(self._data, f"{self.name}: manifest")
        diff_ids = self._diff_ids
        for digest, found in layers.items():
            self._diff_ids = {**self._diff_ids, found["digest"]: diff_ids[digest]}


def _content(repo: Repository, stream: SplitStream) -> Iterator[bytes]:
    """The file that a split stream stands for, in pieces."""
    for chunk in stream.chunks():
        if not isinstance(chunk, Digest):
            yield chunk
            continue
        fd = repo.objects.open(chunk)
        try:
            while piece := os.read(fd, _READ):
                yield piece
        finally:
            os.close(fd)
