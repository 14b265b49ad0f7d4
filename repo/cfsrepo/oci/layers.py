"""A layer read back from its split stream: members with their contents, without reading an object.

The stream is the layer's archive with every regular file over `INLINE_MAX` bytes replaced by its
object. A sparse file's object holds the parts that the archive holds, one after the other;
`expand` makes the file of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.splitstream import Digest, SplitStream
from cfsrepo.formats.tar.headerfields import SparseMap
from cfsrepo.formats.tar.reader import Member, TarParser
from cfsrepo.oci.merge import INLINE_MAX, Content
from cfsrepo.store.objects import ObjectStore

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
    """The file of `size` bytes whose `parts` are stored one after the other in `content`."""
    if size <= INLINE_MAX:
        data = bytearray(size)
        stored, at = content or b"", 0
        for offset, length in parts:
            data[offset : offset + length] = stored[at : at + length]
            at += length
        return bytes(data) or None
    with objects.writer() as writer:
        position = at = 0
        fd = objects.open(content) if isinstance(content, Digest) else -1
        try:
            for offset, length in [*parts, (size, 0)]:
                while position < offset:
                    step = min(offset - position, _PIECE)
                    writer.write(_ZEROS[:step])
                    position += step
                end = at + length
                while at < end:
                    if fd >= 0:
                        piece = os.pread(fd, min(end - at, _PIECE), at)
                    else:
                        piece = (content or b"")[at:end]
                    if not piece:
                        raise RepositoryError("the object of a sparse file is too short")
                    writer.write(piece)
                    at += len(piece)
                    position += len(piece)
        finally:
            if fd >= 0:
                os.close(fd)
        return Digest(writer.commit())


_ZEROS = memoryview(bytes(_PIECE))
