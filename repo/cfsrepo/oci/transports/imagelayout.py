"""An OCI image layout: a directory with `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`.

Reference: image-layout.md of the OCI image specification. Every blob is checked against the size
and digest of its descriptor while it is read.
"""

from __future__ import annotations

import os
import stat

from cfsrepo.errors import InputError, NotFoundError
from cfsrepo.oci.documents import DOCUMENT_MAX, Descriptor, parse_index
from cfsrepo.oci.transports.blob import Blob, FileBlob, read_document
from cfsrepo.system.closing import Closing


class Layout(Closing):
    """An image layout on disk, read only. A context manager."""

    def __init__(self, directory: str, ref: str | None = None) -> None:
        """`ref`: a name or digest in the index, of the image that is meant; None: the only one.

        NotFoundError: there is no directory. InputError: it is no image layout.
        """
        self.directory = self.name = directory
        self.ref = ref
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
        return FileBlob(fd, descriptor, name)

    def find(self) -> list[Descriptor]:
        """The entries of the index that the reference means; all, where it names none.

        NotFoundError: there is none, or the layout holds several images and none was named.
        """
        return pick(self.index, self.ref, self.directory, "oci:DIR:REF")

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest or an index, checked."""
        return read_document(self, descriptor)

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


def pick(index: list[Descriptor], ref: str | None, name: str, spelling: str) -> list[Descriptor]:
    """The entries of a layout's index that `ref`, a name or a digest, means; None: the only image.

    NotFoundError where there is none, or where there are several and none was named.
    """
    names = sorted({item.ref_name for item in index if item.ref_name is not None})
    hint = None
    if names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = f"there is {shown}; name one as {spelling}"
    if ref is None:
        if len({item.ref_name for item in index}) > 1:
            raise NotFoundError(f"{name}: it holds several images", hint=hint)
        found = index
    else:
        found = [item for item in index if ref in (item.ref_name, item.digest)]
    if not found:
        what = f"no image {ref}" if ref is not None else "no image"
        raise NotFoundError(f"{name}: {what}", hint=hint)
    return found
