"""Writing an OCI image layout: blobs by rename, then the index: a reader sees whole images."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable
from typing import Any, Final

from cfsrepo.errors import InputError
from cfsrepo.oci.documents import DOCUMENT_MAX, INDEX_TYPE, REF_NAME, Descriptor, parse_index
from cfsrepo.oci.transports.blob import Blob, MemoryBlob, pieces
from cfsrepo.system.closing import Closing

LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
"""The content of `oci-layout`."""


class LayoutWriter(Closing):
    """An image layout in a directory, made if missing. A context manager."""

    plain_layers = False

    def __init__(self, directory: str, ref: str | None) -> None:
        """InputError: there is something else in the directory."""
        self.name = directory
        self.ref = ref
        self._entry: dict[str, Any] | None = None
        os.makedirs(directory, exist_ok=True)
        names = os.listdir(directory)
        if names and "oci-layout" not in names and "index.json" not in names:
            raise InputError(f"{directory}: not empty, and no OCI image layout")

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Is a blob of this digest and size there?"""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._path(descriptor)).st_size == descriptor.size
        return False

    def put_blob(self, blob: Blob, report: Callable[[int], object]) -> None:
        """Store a blob."""
        path = self._path(blob.descriptor)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _replacing(path) as fd:
            for piece in pieces(blob):
                _write(fd, piece)
                report(len(piece))

    def put_manifest(self, data: bytes, descriptor: Descriptor, *, named: bool) -> None:
        """Store a manifest or an index."""
        with MemoryBlob(data, descriptor, f"{self.name}: {descriptor.digest}") as blob:
            self.put_blob(blob, lambda count: None)
        if named:
            self._entry = index_entry(descriptor, self.ref)

    def finish(self) -> None:
        """Write the index. Another image of the same name loses it."""
        with contextlib.ExitStack() as stack:
            lock = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read_index()
            if self._entry is not None:
                entries = [item for item in index["manifests"] if not self._replaces(item)]
                index["manifests"] = [*entries, self._entry]
            os.makedirs(f"{self.name}/blobs/sha256", exist_ok=True)
            for name, data in (("oci-layout", LAYOUT), ("index.json", dump(index))):
                with _replacing(f"{self.name}/{name}") as fd:
                    _write(fd, data)
            os.fsync(lock)

    def close(self) -> None:
        """Nothing is held."""

    def _replaces(self, item: dict[str, Any]) -> bool:
        """Does the new entry take the place of `item`?"""
        assert self._entry is not None
        annotations = item.get("annotations") or {}
        name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
        return name == self.ref and (
            name is not None or item.get("digest") == self._entry["digest"]
        )

    def _read_index(self) -> dict[str, Any]:
        try:
            with open(f"{self.name}/index.json", "rb") as file:
                data = file.read(DOCUMENT_MAX + 1)
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
        parse_index(data, f"{self.name}/index.json")
        found: dict[str, Any] = json.loads(data)
        return found

    def _path(self, descriptor: Descriptor) -> str:
        algorithm, _, value = descriptor.digest.partition(":")
        return f"{self.name}/blobs/{algorithm}/{value}"


def index_entry(descriptor: Descriptor, ref: str | None) -> dict[str, Any]:
    """A descriptor as an entry of a layout's index, called `ref`."""
    entry: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if ref is not None:
        entry["annotations"] = {REF_NAME: ref}
    return entry


def dump(document: object) -> bytes:
    """A document of ours as bytes."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@contextlib.contextmanager
def _replacing(path: str) -> Any:
    """A descriptor of a new file, which becomes `path` when the block ends well."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
