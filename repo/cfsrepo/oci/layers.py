"""A layer read back from its split stream: members with their contents, without reading an object.

The stream is the layer's archive with every regular file over `INLINE_MAX` bytes replaced by its
object. A sparse file's object holds the parts that the archive holds, one after the other;
`expand` makes the file of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.fsverity import Hasher
from cfsrepo.formats.splitstream import Digest, SplitStream
from cfsrepo.formats.tar.headerfields import SparseMap
from cfsrepo.formats.tar.reader import Member, TarParser
from cfsrepo.oci.merge import INLINE_MAX, Content
from cfsrepo.store.objects import ObjectStore
from cfsrepo.system.closing import Closing

_PIECE = 1 << 20


def read_layer(
    stream: SplitStream, objects: ObjectStore, *, only_schily: bool = False
) -> Iterator[tuple[Member, Content]]:
    """The members of the layer `stream`, in archive order.

    InputError: the archive is damaged. RepositoryError: the stream does not fit the archive.
    `only_schily`: see `cfsrepo.formats.tar.headerfields.pax_xattr`.
    """
    name = stream.name
    parser = TarParser(name, only_schily=only_schily)
    chunks = stream.chunks()
    buffer, at = b"", 0
    while True:
        member = parser.parse(buffer, at)
        if member is None:
            if parser.ended:
                return
            chunk = next(chunks, None)
            if chunk is None:
                parser.at_end(buffer, at)
                return
            if isinstance(chunk, Digest):
                raise RepositoryError(f"{name}: an object in place of a header")
            buffer, at = buffer[at:] + chunk, 0
            continue
        at = parser.position
        content: Content = None
        left = member.stored
        if left > INLINE_MAX:
            external = next(chunks, None) if at == len(buffer) else None
            if not isinstance(external, Digest):
                raise RepositoryError(f"{name}: a file that should be an object is not")
            content = external
            left = 0
        wanted = left + member.padding
        while len(buffer) - at < wanted:
            chunk = next(chunks, None)
            if chunk is None or isinstance(chunk, Digest):
                raise RepositoryError(f"{name}: a file is cut off")
            buffer, at = buffer[at:] + chunk, 0
        if left:
            content = buffer[at : at + left]
        at += wanted
        if member.sparse is not None and member.kind == stat.S_IFREG:
            content = expand(content, member.sparse, member.size, objects)
        yield member, content


def expand(content: Content, parts: SparseMap, size: int, objects: ObjectStore) -> Content:
    """The file of `size` bytes whose `parts` are stored one after the other in `content`.

    One that is in the store already is not written again; holes are never written.
    """
    if size <= INLINE_MAX:
        return spread(content if isinstance(content, bytes) else b"", parts, size) or None
    with _Stored(content, objects) as stored:
        hasher = Hasher(objects.algorithm)
        stored.copy(parts, size, hasher.update, hasher.update_zeros)
        digest = hasher.digest()
        if objects.size(digest) != size:
            with objects.writer() as writer:
                stored.copy(parts, size, writer.write, writer.write_hole)
                writer.commit()
        return Digest(digest)


def spread(stored: bytes, parts: SparseMap, size: int) -> bytes:
    """The small sparse file of `size` bytes whose `parts` are `stored` one after the other."""
    data = bytearray(size)
    at = 0
    for offset, length in parts:
        data[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(data)


class _Stored(Closing):
    """The parts of a sparse file that an archive holds, one after the other."""

    def __init__(self, content: Content, objects: ObjectStore) -> None:
        self._data = content or b""
        self._fd = objects.open(content) if isinstance(content, Digest) else -1

    def close(self) -> None:
        """Release the object."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def copy(
        self,
        parts: SparseMap,
        size: int,
        data: Callable[[bytes], object],
        hole: Callable[[int], object],
    ) -> None:
        """Call `data` with the file's bytes and `hole` with the lengths of its holes, in order."""
        position = at = 0
        for offset, length in [*parts, (size, 0)]:
            if offset > position:
                hole(offset - position)
            position = offset + length
            end = at + length
            while at < end:
                piece = self._read(at, min(end - at, _PIECE))
                if not piece:
                    raise RepositoryError("the object of a sparse file is too short")
                data(piece)
                at += len(piece)

    def _read(self, at: int, count: int) -> bytes:
        if self._fd >= 0:
            return os.pread(self._fd, count, at)
        return self._data[at : at + count]
