"""Writing images as tar archives: an OCI layout, or what `docker load` reads.

The archive is written beside its place and moved there when it is whole. The same image always
gives the same bytes: members have no owner and no date.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from typing import IO, Any

from cfsrepo.errors import InputError, UsageError
from cfsrepo.oci.decompress import decompress
from cfsrepo.oci.documents import (
    INDEX_TYPE,
    LAYER_TYPES,
    Compression,
    Descriptor,
    parse_manifest,
)
from cfsrepo.oci.transports.blob import Blob, pieces
from cfsrepo.oci.transports.layoutwriter import LAYOUT, dump, index_entry
from cfsrepo.system.closing import Closing

_BUFFER = 1 << 20


class _Reader(io.RawIOBase):
    """A blob as a file, for tarfile."""

    def __init__(self, blob: Blob, report: Callable[[int], object]) -> None:
        self._pieces = pieces(blob)
        self._rest = b""
        self._report = report

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
            self._report(len(self._rest))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _ArchiveWriter(Closing):
    """The common part: a tar archive that appears when it is whole."""

    def __init__(self, path: str, ref: str | None) -> None:
        """UsageError: there is such a file already."""
        self.name = path
        self.ref = ref
        self._written: set[str] = set()
        if os.path.exists(path):
            raise UsageError(f"{path}: exists already", hint="remove it, or name another file")
        self._temporary = f"{path}.{os.getpid()}.new"
        self._file: IO[bytes] = open(self._temporary, "xb")  # noqa: SIM115 - closed by close
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115

    def close(self) -> None:
        """Remove what was not finished."""
        if not self._file.closed:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

    def _add(self, name: str, size: int, file: IO[bytes]) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o644
        self._tar.addfile(member, file)
        self._written.add(name)

    def _add_bytes(self, name: str, data: bytes) -> None:
        if name not in self._written:
            self._add(name, len(data), io.BytesIO(data))

    def _complete(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._temporary, self.name)


class OciArchiveWriter(_ArchiveWriter):
    """An OCI image layout in a tar archive. A context manager."""

    plain_layers = False

    def __init__(self, path: str, ref: str | None) -> None:
        super().__init__(path, ref)
        self._entry: dict[str, Any] | None = None
        self._add_bytes("oci-layout", LAYOUT)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Was it put before?"""
        return _place(descriptor) in self._written

    def put_blob(self, blob: Blob, report: Callable[[int], object]) -> None:
        """Append a blob. A bad one leaves the archive unfit to be finished."""
        reader = io.BufferedReader(_Reader(blob, report), _BUFFER)
        try:
            self._add(_place(blob.descriptor), blob.descriptor.size, reader)
        except OSError as error:
            if error.errno is None:  # tarfile's own: the blob is too short
                blob.finish()
            raise
        blob.finish()

    def put_manifest(self, data: bytes, descriptor: Descriptor, *, named: bool) -> None:
        """Append a manifest or an index."""
        self._add_bytes(_place(descriptor), data)
        if named:
            self._entry = index_entry(descriptor, self.ref)

    def finish(self) -> None:
        """Write the index; the archive gets its name."""
        entries = [] if self._entry is None else [self._entry]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
        self._add_bytes("index.json", dump(index))
        self._complete()


class DockerArchiveWriter(_ArchiveWriter):
    """What `docker load` reads. A context manager.

    It has no manifest of OCI: layers are plain archives, named by their digests.
    """

    plain_layers = True

    def __init__(self, path: str, ref: str | None) -> None:
        super().__init__(path, ref)
        self._names: dict[str, str] = {}
        self._image: dict[str, Any] | None = None

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Was it put before?"""
        return descriptor.digest in self._names

    def put_blob(self, blob: Blob, report: Callable[[int], object]) -> None:
        """Append the configuration, or a layer, unpacked."""
        packing = LAYER_TYPES.get(blob.descriptor.media_type)
        value = blob.descriptor.digest.partition(":")[2]
        if packing is None or packing is Compression.NONE:
            name = f"{value}.json" if packing is None else f"{value}.tar"
            reader = io.BufferedReader(_Reader(blob, report), _BUFFER)
            self._add(name, blob.descriptor.size, reader)
            blob.finish()
        else:
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(self.name))) as file:
                found = hashlib.sha256()
                for piece in decompress(blob, packing):
                    file.write(piece)
                    found.update(piece)
                blob.finish()
                report(blob.descriptor.size)
                size = file.tell()
                file.seek(0)
                name = f"{found.hexdigest()}.tar"
                if name not in self._written:
                    self._add(name, size, file)
        self._names[blob.descriptor.digest] = name

    def put_manifest(self, data: bytes, descriptor: Descriptor, *, named: bool) -> None:
        """Take from a manifest what belongs into an archive."""
        if not named:
            raise InputError(f"{self.name}: a docker-archive holds an image for one platform only")
        manifest = parse_manifest(data, f"manifest {descriptor.digest}")
        tag = self.ref
        if tag is not None and ":" not in tag.rpartition("/")[2]:
            tag = f"{tag}:latest"
        self._image = {
            "Config": self._names[manifest.config.digest],
            "RepoTags": [tag] if tag is not None else None,
            "Layers": [self._names[layer.digest] for layer in manifest.layers],
        }

    def finish(self) -> None:
        """Write the list of images; the archive gets its name."""
        self._add_bytes("manifest.json", json.dumps([self._image]).encode())
        self._complete()


def _place(descriptor: Descriptor) -> str:
    algorithm, _, value = descriptor.digest.partition(":")
    return f"blobs/{algorithm}/{value}"
