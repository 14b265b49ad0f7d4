"""An OCI image layout: a directory with `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`.

Reference: image-layout.md of the OCI image specification. Every blob is checked against the size
and digest of its descriptor while it is read.
"""

from __future__ import annotations

import hashlib
import os
import platform as host
import stat
from typing import Protocol

from cfsrepo.errors import DigestMismatchError, InputError, LimitError, NotFoundError
from cfsrepo.oci.documents import (
    DOCUMENT_MAX,
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Manifest,
    Platform,
    parse_config,
    parse_index,
    parse_manifest,
)
from cfsrepo.system.closing import Closing

_DEPTH_MAX = 8  # of indexes within indexes
_CANDIDATES_MAX = 1024

# machine of uname(2) -> Go's architecture, variant
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}


def own_platform() -> Platform:
    """The platform of this machine."""
    machine = host.machine()
    return Platform("linux", *_ARCHITECTURES.get(machine, (machine, "")))


class Blob(Closing):
    """A blob being read once from its start, hashed and counted meanwhile. A context manager.

    `finish` after the last byte says whether it was the blob that was promised.
    """

    def __init__(self, fd: int, descriptor: Descriptor, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        self.position = 0
        self._fd = fd
        self._algorithm, _, self._wanted = descriptor.digest.partition(":")
        self._hash = hashlib.new(self._algorithm)

    def read(self, count: int) -> bytes:
        """Up to `count` more bytes; none at the end. Never more than the descriptor's size + 1."""
        data = os.read(self._fd, min(count, self.descriptor.size + 1 - self.position))
        self._hash.update(data)
        self.position += len(data)
        return data

    def finish(self) -> None:
        """Read what is left and check size and digest; InputError, DigestMismatchError."""
        while self.read(1 << 20):
            pass
        size = self.descriptor.size
        if self.position != size:
            more = "more than " if self.position > size else f"{self.position} of "
            raise InputError(f"{self.name}: {more}{size} bytes")
        if self._hash.hexdigest() != self._wanted:
            raise DigestMismatchError(
                f"{self.name}: its digest is {self._algorithm}:{self._hash.hexdigest()}",
                hint="the blob is damaged: copy the image again",
            )

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ImageSource(Protocol):
    """Where the blobs of an image come from."""

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob, to be read from its start; NotFoundError."""


def read_document(source: ImageSource, descriptor: Descriptor) -> bytes:
    """A whole blob that is a document, checked."""
    with source.open_blob(descriptor) as blob:
        if descriptor.size > DOCUMENT_MAX:
            raise LimitError(f"{blob.name}: a document of {descriptor.size} bytes")
        parts = []
        while part := blob.read(1 << 20):
            parts.append(part)
        blob.finish()
    return b"".join(parts)


class Layout(Closing):
    """An image layout on disk, read only. A context manager."""

    def __init__(self, directory: str) -> None:
        """NotFoundError: there is no directory. InputError: it is no image layout."""
        self.directory = directory
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{directory}: no such directory") from error
        try:
            self.index = parse_index(self._read("index.json"), f"{directory}/index.json")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob of `descriptor`; NotFoundError, or InputError where its size is another."""
        algorithm, _, value = descriptor.digest.partition(":")
        name = f"{self.directory}: blob {descriptor.digest}"
        fd = self._open(f"blobs/{algorithm}/{value}", f"{name} is missing")
        size = os.fstat(fd).st_size
        if size != descriptor.size:
            os.close(fd)
            raise InputError(
                f"{name}: {size} bytes, not {descriptor.size}",
                hint="the blob is damaged: copy the image again",
            )
        return Blob(fd, descriptor, name)

    def find(self, ref: str | None) -> Descriptor:
        """The descriptor of the manifest that `ref` (name or digest) means on this machine.

        Without `ref` the layout must hold one image only. Of an image for several platforms it is
        the one for this machine's; NotFoundError if there is none.
        """
        if ref is None:
            found = self.index
            names = {item.ref_name for item in found}
            if len(names) > 1:
                raise NotFoundError(
                    f"{self.directory}: it holds several images", hint=self._choice()
                )
        else:
            found = [item for item in self.index if ref in (item.ref_name, item.digest)]
        if not found:
            what = f"no image {ref}" if ref is not None else "no image"
            raise NotFoundError(f"{self.directory}: {what}", hint=self._choice())
        return self._for_platform(self._manifests(found))

    def manifest(self, descriptor: Descriptor) -> tuple[bytes, Manifest]:
        """The manifest's bytes, checked, and what they say."""
        data = read_document(self, descriptor)
        return data, parse_manifest(data, f"{self.directory}: manifest {descriptor.digest}")

    def _choice(self) -> str | None:
        names = sorted({item.ref_name for item in self.index if item.ref_name is not None})
        if not names:
            return None
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return f"there is {shown}; name one as oci:DIR:REF"

    def _manifests(self, found: list[Descriptor]) -> list[Descriptor]:
        """All manifests that `found` leads to, in order, through indexes within indexes."""
        manifests: list[Descriptor] = []
        stack = [(item, 0) for item in reversed(found)]
        seen: set[str] = set()
        while stack:
            item, depth = stack.pop()
            if item.digest in seen:
                continue
            seen.add(item.digest)
            if len(seen) > _CANDIDATES_MAX or depth > _DEPTH_MAX:
                raise LimitError(f"{self.directory}: too many indexes within indexes")
            name = f"{self.directory}: {item.digest}"
            if item.media_type in MANIFEST_TYPES:
                manifests.append(item)
            elif item.media_type in INDEX_TYPES:
                nested = parse_index(read_document(self, item), name)
                stack.extend((child, depth + 1) for child in reversed(nested))
            else:
                raise InputError(f"{name}: unknown type {item.media_type or '(none)'}")
        return manifests

    def _for_platform(self, manifests: list[Descriptor]) -> Descriptor:
        if len(manifests) == 1:
            return manifests[0]
        own = own_platform()
        matching = []
        others = []
        for item in manifests:
            platform = item.platform
            if platform is None:
                _, manifest = self.manifest(item)
                data = read_document(self, manifest.config)
                platform = parse_config(
                    data, f"{self.directory}: {manifest.config.digest}"
                ).platform
            if (platform.os, platform.architecture) == (own.os, own.architecture):
                matching.append((platform.variant not in ("", own.variant), item))
            else:
                others.append(str(platform))
        if not matching:
            raise NotFoundError(
                f"{self.directory}: no image for {own}",
                hint=f"there is {', '.join(sorted(set(others))[:8])}" if others else None,
            )
        return min(matching, key=lambda pair: pair[0])[1]

    def _read(self, name: str) -> bytes:
        fd = self._open(name, f"{self.directory}: no OCI image layout ({name} is missing)")
        with os.fdopen(fd, "rb") as file:
            return file.read(DOCUMENT_MAX + 1)

    def _open(self, path: str, missing: str) -> int:
        """A descriptor of a regular file of the layout."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError as error:
            raise NotFoundError(missing) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InputError(f"{self.directory}/{path}: no regular file")
        return fd
