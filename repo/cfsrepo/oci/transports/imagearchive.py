"""Images in tar archives: an OCI image layout, or what `docker save` writes; read only.

The archive is looked through once for where its files are; blobs are then read in place. It is not
unpacked. A packed archive cannot be read in place and is refused.

A docker-archive has `manifest.json`: a list of images, each with its configuration, its tags and
its layers, which are plain archives. What stands for the manifest here is made of that, always the
same way: an OCI manifest with the configuration and the layers as they are in the archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import Any, Final

from cfsrepo.errors import InputError, LimitError, NotFoundError
from cfsrepo.formats.tar.reader import TarParser
from cfsrepo.oci.documents import (
    CONFIG_TYPE,
    DOCUMENT_MAX,
    LAYER_TYPE,
    LAYERS_MAX,
    MANIFEST_TYPE,
    Descriptor,
    parse_index,
)
from cfsrepo.oci.transports.blob import Blob, FileBlob, MemoryBlob, read_document
from cfsrepo.oci.transports.imagelayout import pick
from cfsrepo.system.closing import Closing

_HEADERS: Final = 64 << 10  # bytes read at once when looking for headers
_FILES_MAX: Final = 1 << 16
_HEADER_MAX: Final = 4 << 20
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PACKED: Final = (b"\x1f\x8b", _ZSTD, b"BZh", b"\xfd7zXZ")


class Archive(Closing):
    """The files of a tar archive on disk: name -> place. A context manager."""

    def __init__(self, path: str) -> None:
        """NotFoundError: there is no such file. InputError: it is no archive."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{path}: no such file") from error
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise InputError(f"{path}: no regular file")
            if os.pread(self._fd, 6, 0).startswith(_PACKED):
                raise InputError(f"{path}: a packed archive", hint="unpack it first (gzip -d)")
            self._files, self._links = self._scan()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def place(self, name: str) -> tuple[int, int]:
        """(offset, size) of the file `name`; NotFoundError."""
        wanted = os.fsencode(os.path.normpath(name))
        for _ in range(8):
            found = self._files.get(wanted)
            if found is not None:
                return found
            link = self._links.get(wanted)
            if link is None:
                break
            wanted = os.path.normpath(os.path.join(os.path.dirname(wanted), link))
        raise NotFoundError(f"{self.path}: {name} is missing")

    def read(self, name: str) -> bytes:
        """A document in the archive."""
        offset, size = self.place(name)
        if size > DOCUMENT_MAX:
            raise LimitError(f"{self.path}: {name}: a document of {size} bytes")
        return os.pread(self._fd, size, offset)

    def open_blob(self, name: str, descriptor: Descriptor) -> Blob:
        """The file `name` as a blob; InputError where its size is another."""
        offset, size = self.place(name)
        if size != descriptor.size:
            raise InputError(f"{self.path}: {name}: {size} bytes, not {descriptor.size}")
        return FileBlob(os.dup(self._fd), descriptor, f"{self.path}: {name}", offset)

    def packing(self, name: str) -> str:
        """What the type of the layer `name` ends with: its packing, told from the first bytes."""
        offset, size = self.place(name)
        start = os.pread(self._fd, min(size, 4), offset)
        return "+gzip" if start[:2] == b"\x1f\x8b" else "+zstd" if start == _ZSTD else ""

    def digest(self, name: str) -> tuple[str, int]:
        """The OCI digest and the size of a file; reads it."""
        offset, size = self.place(name)
        found = hashlib.sha256()
        end = offset + size
        while offset < end:
            piece = os.pread(self._fd, min(1 << 20, end - offset), offset)
            if not piece:
                raise InputError(f"{self.path}: {name} is cut off")
            found.update(piece)
            offset += len(piece)
        return f"sha256:{found.hexdigest()}", size

    def _scan(self) -> tuple[dict[bytes, tuple[int, int]], dict[bytes, bytes]]:
        parser = TarParser(self.path)
        files: dict[bytes, tuple[int, int]] = {}
        links: dict[bytes, bytes] = {}
        at, wanted = 0, _HEADERS
        size = os.fstat(self._fd).st_size
        while True:
            data = os.pread(self._fd, wanted, at)
            member = parser.parse(data, 0)
            if member is None:
                if parser.ended or at + len(data) >= size:
                    if not parser.ended:
                        parser.at_end(data, 0)
                    return files, links
                wanted = max(parser.need, _HEADERS)
                if wanted > _HEADER_MAX:
                    raise LimitError(f"{self.path}: a header of over {_HEADER_MAX} bytes")
                continue
            at, wanted = at + parser.position, _HEADERS
            name = os.path.normpath(member.path)
            if member.kind == stat.S_IFREG and member.sparse is None:
                files[name] = (at, member.stored)
                if at + member.stored > size:
                    raise InputError(f"{self.path}: the archive is cut off")
            elif member.kind == stat.S_IFLNK:
                links[name] = member.link
            if len(files) + len(links) > _FILES_MAX:
                raise LimitError(f"{self.path}: over {_FILES_MAX} files")
            at += member.stored + member.padding


class OciArchive(Closing):
    """An OCI image layout in a tar archive. A context manager."""

    def __init__(self, path: str, ref: str | None = None) -> None:
        """`ref`: as of a `Layout`."""
        self.name = path
        self.ref = ref
        self._archive = Archive(path)
        try:
            self.index = parse_index(self._archive.read("index.json"), f"{path}: index.json")
        except NotFoundError as error:
            self.close()
            raise InputError(f"{path}: no OCI image layout (index.json is missing)") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._archive.close()

    def find(self) -> list[Descriptor]:
        """As of a `Layout`."""
        return pick(self.index, self.ref, self.name, "oci-archive:FILE:REF")

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest or an index, checked."""
        return read_document(self, descriptor)

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob of `descriptor`; NotFoundError."""
        algorithm, _, value = descriptor.digest.partition(":")
        return self._archive.open_blob(f"blobs/{algorithm}/{value}", descriptor)


class DockerArchive(Closing):
    """What `docker save` writes. A context manager."""

    def __init__(self, path: str, ref: str | None = None) -> None:
        """`ref`: a tag of the image that is meant; None: the only one."""
        self.name = path
        self.ref = ref
        self._archive = Archive(path)
        self._places: dict[str, str] = {}
        self._manifests: dict[str, bytes] = {}
        try:
            self._images = self._read_images()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._archive.close()

    def find(self) -> list[Descriptor]:
        """The manifest that stands for the image; NotFoundError where it is not in the archive."""
        found = self._images
        if self.ref is not None:
            spellings = {self.ref, f"{self.ref}:latest"}
            found = [item for item in found if spellings & set(_strings(item, "RepoTags"))]
        if len(found) != 1:
            tags = sorted({tag for item in self._images for tag in _strings(item, "RepoTags")})
            what = "several images" if self.ref is None and found else f"no image {self.ref or ''}"
            raise NotFoundError(
                f"{self.name}: {what.strip()}",
                hint=f"there is {', '.join(tags[:8])}; name one as docker-archive:FILE:NAME:TAG"
                if tags
                else None,
            )
        return [self._manifest(found[0])]

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of the manifest that was made."""
        return self._manifests[descriptor.digest]

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob of `descriptor`; NotFoundError."""
        if descriptor.digest in self._manifests:
            data = self._manifests[descriptor.digest]
            return MemoryBlob(data, descriptor, f"{self.name}: manifest {descriptor.digest}")
        place = self._places.get(descriptor.digest)
        if place is None:
            raise NotFoundError(f"{self.name}: blob {descriptor.digest} is missing")
        return self._archive.open_blob(place, descriptor)

    def _read_images(self) -> list[dict[str, Any]]:
        name = f"{self.name}: manifest.json"
        try:
            images = json.loads(self._archive.read("manifest.json"))
        except NotFoundError as error:
            raise InputError(
                f"{self.name}: no docker-archive (manifest.json is missing)"
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}: no JSON: {error}") from error
        if not isinstance(images, list) or not all(isinstance(item, dict) for item in images):
            raise InputError(f"{name}: no list of images")
        return images

    def _manifest(self, image: dict[str, Any]) -> Descriptor:
        name = f"{self.name}: manifest.json"
        config = image.get("Config")
        layers = _strings(image, "Layers")
        if not isinstance(config, str) or len(layers) > LAYERS_MAX:
            raise InputError(f"{name}: an image without configuration, or with too many layers")

        def descriptor(place: str, media_type: str) -> dict[str, Any]:
            if media_type == LAYER_TYPE:
                media_type += self._archive.packing(place)
            digest, size = self._archive.digest(place)
            self._places[digest] = place
            return {"mediaType": media_type, "digest": digest, "size": size}

        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, CONFIG_TYPE),
            "layers": [descriptor(layer, LAYER_TYPE) for layer in layers],
        }
        data = json.dumps(document, separators=(",", ":")).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._manifests[digest] = data
        return Descriptor(MANIFEST_TYPE, digest, len(data))


def _strings(item: dict[str, Any], key: str) -> list[str]:
    value = item.get(key) or []
    if not isinstance(value, list):
        return []
    return [text for text in value if isinstance(text, str)]
