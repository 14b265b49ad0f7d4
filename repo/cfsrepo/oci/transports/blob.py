"""Blobs as they are read: a stream of bytes whose size and digest are checked on the way.

`ImageSource` is what a pull takes an image from; each transport has one.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol

from cfsrepo.errors import DigestMismatchError, InputError, LimitError
from cfsrepo.oci.documents import DOCUMENT_MAX, Descriptor
from cfsrepo.system.closing import Closing

_PIECE = 1 << 20


class Blob(Closing):
    """A blob being read once from its start, hashed and counted meanwhile. A context manager.

    `finish` after the last byte says whether it was the blob that was promised.
    """

    def __init__(self, descriptor: Descriptor, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        self.position = 0
        self._algorithm, _, self._wanted = descriptor.digest.partition(":")
        self._hash = hashlib.new(self._algorithm)

    @abstractmethod
    def _receive(self, count: int) -> bytes:
        """Up to `count` more bytes; none at the end."""

    def interrupt(self) -> None:
        """Make a `read` that waits in another thread fail at once. Where nothing waits for long,
        this does nothing."""

    def stored(self, diff_id: str) -> bytes | None:
        """The stream of the layer `diff_id` that this blob was unpacked to before, as far as the
        source remembers it."""
        return None

    def remember(self, diff_id: str, stream: bytes) -> None:
        """Remember that this blob was unpacked to the layer `diff_id`, in the object `stream`."""

    def read(self, count: int) -> bytes:
        """Up to `count` more bytes; none at the end. Never more than the descriptor's size + 1."""
        data = self._receive(min(count, self.descriptor.size + 1 - self.position))
        self._hash.update(data)
        self.position += len(data)
        return data

    def finish(self) -> None:
        """Read what is left and check size and digest; InputError, DigestMismatchError."""
        while self.read(_PIECE):
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

    def read_all(self) -> bytes:
        """The whole blob, checked, where it is a document; LimitError where it is too large."""
        if self.descriptor.size > DOCUMENT_MAX:
            raise LimitError(f"{self.name}: a document of {self.descriptor.size} bytes")
        parts = []
        while part := self.read(_PIECE):
            parts.append(part)
        self.finish()
        return b"".join(parts)


class FileBlob(Blob):
    """A blob in a file, or in the part of a file that begins at `offset`."""

    def __init__(self, fd: int, descriptor: Descriptor, name: str, offset: int = 0) -> None:
        """`fd` becomes the blob's own."""
        super().__init__(descriptor, name)
        self._fd = fd
        self._end = offset + descriptor.size if offset else None
        self._offset = offset

    def _receive(self, count: int) -> bytes:
        if self._end is not None:
            count = min(count, self._end - self._offset)
        data = os.pread(self._fd, count, self._offset)
        self._offset += len(data)
        return data

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemoryBlob(Blob):
    """A blob that is in memory."""

    def __init__(self, data: bytes, descriptor: Descriptor, name: str) -> None:
        super().__init__(descriptor, name)
        self._file = io.BytesIO(data)

    def _receive(self, count: int) -> bytes:
        return self._file.read(count)

    def close(self) -> None:
        """Release the memory."""
        self._file.close()


class PieceBlob(Blob):
    """A blob that is made piece by piece while it is read."""

    def __init__(self, pieces: Iterator[bytes], descriptor: Descriptor, name: str) -> None:
        super().__init__(descriptor, name)
        self._pieces = pieces
        self._rest = memoryview(b"")

    def _receive(self, count: int) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        data, self._rest = self._rest[:count], self._rest[count:]
        return bytes(data)

    def close(self) -> None:
        """Forget the pieces."""
        self._pieces = iter(())


class BlobSource(Protocol):
    """Where blobs come from."""

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob, to be read from its start; NotFoundError."""


class ImageSource(BlobSource, Protocol):
    """Where an image comes from: documents and blobs."""

    name: str
    """What errors call it."""

    def find(self) -> list[Descriptor]:
        """The manifests or indexes that the reference means: one, or one for each platform.
        NotFoundError where there is none."""

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest or an index, checked."""

    def close(self) -> None:
        """Release what it holds."""


class ImageDestination(Protocol):
    """Where an image goes to: blobs first, then the manifests that name them."""

    name: str
    """What errors call it."""
    plain_layers: bool
    """It holds archives of layers, never packed ones, and no OCI manifest."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Is the blob there? Where it can be taken over from elsewhere there, it is then."""

    def put_blob(self, blob: Blob, report: Callable[[int], object]) -> None:
        """Store a blob; it is checked while it is read. `report` is told bytes."""

    def put_manifest(self, data: bytes, descriptor: Descriptor, *, named: bool) -> None:
        """Store a manifest or an index. `named`: it is what the reference means."""

    def finish(self) -> None:
        """All was put: make it visible."""

    def close(self) -> None:
        """Release what it holds. What was not finished does not become visible."""


def pieces(blob: Blob) -> Iterator[bytes]:
    """All of a blob, in pieces; ends only if it was the blob that was promised."""
    while data := blob.read(_PIECE):
        yield data
    blob.finish()


def read_document(source: BlobSource, descriptor: Descriptor) -> bytes:
    """A whole blob that is a document, checked."""
    with source.open_blob(descriptor) as blob:
        return blob.read_all()
