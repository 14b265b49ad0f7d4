"""Fuzz targets for what streams by: tar archives, packed layers, split streams."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import zstandard

from cfsrepo.errors import InputError, RepositoryError
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.splitstream import Digest, SplitStream, SplitStreamWriter
from cfsrepo.formats.tar import writer
from cfsrepo.formats.tar.headerfields import BLOCK
from cfsrepo.formats.tar.reader import Member
from cfsrepo.formats.tar.stream import TarStream
from cfsrepo.oci.decompress import CHUNK, decompress
from cfsrepo.oci.documents import Compression

ENOUGH = 8 << 20
"""Bytes of output after which a bomb is not followed any further."""

# --- tar -----------------------------------------------------------------------------------------

Read = list[tuple[Member, bytes]]


def check_tar(data: bytes) -> None:
    """An archive as it is, and with checksums that fit, which a fuzzer cannot guess."""
    check_archive(data)
    fitting = checksummed(data)
    if fitting != data:
        check_archive(fitting)


def checksummed(data: bytes) -> bytes:
    """`data` with the right checksum in each block that looks like a header."""
    archive = bytearray(data)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if archive[start + 257 : start + 262] == b"ustar":
            archive[start + 148 : start + 156] = b" " * 8
            total = sum(archive[start : start + BLOCK])
            archive[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(archive)


def check_archive(data: bytes) -> None:
    """The same in pieces of any size, all of its bytes accounted for, the same when written."""
    whole = read_tar(data, len(data) or 1)
    assert read_tar(data, 1 if len(data) < 1200 else 700) == whole
    if whole is None:
        return
    parts = []
    kept: Read = []
    for member, content in whole:
        try:
            parts += [writer.encode(member), content, bytes(member.padding)]
        except ValueError:
            continue  # a sparse file
        kept.append((member, content))
    again = read_tar(b"".join(parts) + writer.END, 10_000)
    assert again == kept


def read_tar(data: bytes, size: int) -> Read | None:
    """All members of an archive in pieces of `size`, with contents; None for a damaged one."""
    seen: list[bytes] = []
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    stream = TarStream(pieces, "fuzz", on_header=lambda header: seen.append(bytes(header)))
    found: Read = []
    try:
        while (member := stream.next()) is not None:
            content = b"".join(map(bytes, stream.read_data()))
            assert len(content) == member.stored
            seen.append(content)
            found.append((member, content))
    except InputError:
        return None  # of several things that are wrong, which is met first depends on the pieces
    assert b"".join(seen) == data
    return found


# --- packed layers -------------------------------------------------------------------------------


class Pieces:
    """A source that gives no more than `size` bytes at once."""

    name = "fuzz"

    def __init__(self, data: bytes, size: int) -> None:
        self._stream = io.BytesIO(data)
        self._size = size

    def read(self, count: int, /) -> bytes:
        return self._stream.read(min(count, self._size))


def check_gzip(data: bytes) -> None:
    """A gzip stream."""
    check_packed(data, Compression.GZIP)


def check_zstd(data: bytes) -> None:
    """A zstd stream."""
    check_packed(data, Compression.ZSTD)


def check_packed(data: bytes, compression: Compression) -> None:
    """Pieces make no difference, and what is cut short is never taken for whole."""
    whole = unpacked(data, len(data) or 1, compression)
    streamed = unpacked(data, 7, compression)
    if compression == Compression.GZIP or None not in (whole, streamed):
        # libzstd misses a frame that is shorter than it says when its last block is empty and comes
        # by itself; a layer's digest does not.
        assert streamed == whole
    if whole is not None and data and len(whole) < ENOUGH:
        assert len(data) == 1 or unpacked(data[:-1], len(data), compression) is None


def unpacked(data: bytes, size: int, compression: Compression) -> bytes | None:
    """The content (or the beginning of a large one); None where the stream is damaged."""
    parts: list[bytes] = []
    length = 0
    try:
        for chunk in decompress(Pieces(data, size), compression):
            assert 0 < len(chunk) <= CHUNK
            parts.append(chunk)
            length += len(chunk)
            if length >= ENOUGH:
                return b"".join(parts)[:ENOUGH]
    except InputError:
        return None
    return b"".join(parts)


# --- split streams -------------------------------------------------------------------------------

PIECE = 1 << 20


def check_splitstream(data: bytes) -> None:
    """A stream as a file; or, after a zero byte, the sections that are packed inside of one."""
    algorithm = Algorithm.SHA512 if len(data) % 2 else Algorithm.SHA256
    raw = stream_of(data[1:], algorithm) if data[:1] == b"\0" else data
    try:
        stream = SplitStream.parse(raw)
        chunks = list(some_chunks(stream))
    except RepositoryError:
        return
    copy = SplitStreamWriter(stream.algorithm, stream.content_type)
    for name, digest in stream.named_refs.items():
        copy.named_ref(name, digest)
    size = 0
    for chunk in chunks:
        if isinstance(chunk, Digest):
            copy.external(chunk, 10)
            size += 10
        else:
            copy.inline(chunk)
            size += len(chunk)
    again = SplitStream.parse(copy.finish())
    assert again.size == size
    assert again.named_refs == stream.named_refs
    assert flat(again.chunks()) == flat(iter(chunks))


def some_chunks(stream: SplitStream) -> Iterator[bytes | Digest]:
    """The chunks of a stream, up to a sensible size."""
    length = 0
    for chunk in stream.chunks():
        assert len(chunk) <= PIECE
        yield chunk
        length += len(chunk)
        if length > ENOUGH:
            raise RepositoryError("enough")


def flat(chunks: Iterator[bytes | Digest]) -> list[bytes]:
    """Chunks with neighbours that are no digests joined."""
    result: list[bytes] = [b""]
    for chunk in chunks:
        if isinstance(chunk, Digest):
            result += [bytes(chunk), b""]
        else:
            result[-1] += chunk
    return result


def stream_of(section: bytes, algorithm: Algorithm) -> bytes:
    """A stream with three objects, whose chunks and names are what `section` says."""
    plain = SplitStreamWriter(algorithm, 1)
    for number in range(3):
        plain.external(bytes([number]) * algorithm.digest_size, 10)
    plain.named_ref("layer", bytes(algorithm.digest_size))
    data = bytearray(plain.finish())
    cut = section.find(b"\xff\xff") + 1 or len(section)
    for offset, content in ((64, section[:cut]), (80, section[cut + 1 :])):
        packed = zstandard.ZstdCompressor().compress(content)
        struct.pack_into("<QQ", data, offset, len(data), len(data) + len(packed))
        data += packed
    return bytes(data)
