"""Split streams: a file (usually a tar) with its big parts kept as objects of their own.

Concatenating the chunks, with each external one replaced by its object, gives back the file bit for
bit. The format is that of composefs-rs (module `splitstream_format` of its crate `composefs`), all
numbers little-endian:

    header 32 B   "SplitStream" | version u8 = 0 | flags u16 | algorithm u8 (1 SHA-256, 2 SHA-512)
                  | log2 of the block size u8 = 12 | range of the info section
    info   80 B   ranges of: stream_refs, object_refs, stream, named_refs
                  | content type u64 | size of the whole file u64
    stream_refs   raw digests of streams that named references point to
    object_refs   raw digests of objects, each once, by first appearance
    named_refs    zstd( "INDEX:NAME\\0" ... ), sorted by name, INDEX into stream_refs
    stream        zstd( chunks ): i64 n < 0: -n bytes follow; n >= 0: object_refs[n]

A range is start and end as u64 file offsets. A longer info section is a later version's: its tail
is ignored. Early composefs-rs wrote the header's fields in another order (range first, magic at
18); such streams are read, never written.

Everything an object must be kept for stands uncompressed in the two reference arrays, so that a
collection needs neither the chunks nor the objects.

The same chunks always give the same bytes, and those of cfsctl with the same version of libzstd
(level 3, no checksum, size unknown to the compressor).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.fsverity import Algorithm, Buffer

_MAGIC: Final = b"SplitStream"
_VERSION: Final = 0
_LG_BLOCK_SIZE: Final = 12
_HEADER = struct.Struct("<11sBHBBQQ")
_OLD_HEADER = struct.Struct("<QQH11sBBB")  # as rustc ordered it before the layout was fixed
_INFO = struct.Struct("<QQQQQQQQQQ")
_INT = struct.Struct("<q")

_LEVEL: Final = 3
_PIECE: Final = 1 << 20  # of uncompressed data at a time
_COMPRESSED_AT_ONCE: Final = 128 << 10  # bytes of chunks
_SPOOL: Final = 8 << 20  # of compressed data, beyond which it waits in a temporary file
_NAMED_REFS_LIMIT: Final = 16 << 20  # bytes, uncompressed
_WINDOW_LIMIT: Final = 128 << 20  # what a stream may make the decompressor allocate


class Digest(bytes):
    """The raw fs-verity digest of an object that stands in a stream in place of its content."""

    __slots__ = ()


def content_type(name: bytes) -> int:
    """The number of a content type that is spelled as eight ASCII characters."""
    return int.from_bytes(name, "little")


OCI_LAYER: Final = content_type(b"ocilayer")
OCI_CONFIG: Final = content_type(b"ociconfg")
OCI_MANIFEST: Final = content_type(b"ocimanif")
OCI_BLOB: Final = content_type(b"oci_blob")


class SplitStreamWriter:
    """Makes a stream from chunks. Memory: references, the inline data that waits, 8 MiB."""

    def __init__(self, algorithm: Algorithm, content_type: int) -> None:
        self.algorithm = algorithm
        self.content_type = content_type
        self.size = 0
        """Bytes of the whole file so far."""
        self._inline = bytearray()
        self._chunks = bytearray()  # that wait to be compressed, many at a time
        import tempfile  # slow to load, and readers do not need it

        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._stream = tempfile.SpooledTemporaryFile(_SPOOL)  # noqa: SIM115 - closed by finish
        self._object_index: dict[bytes, int] = {}
        self._stream_index: dict[bytes, int] = {}
        self._named: dict[bytes, int] = {}

    @property
    def pending(self) -> int:
        """Bytes of inline data that wait for the end of their chunk."""
        return len(self._inline)

    def inline(self, data: Buffer) -> None:
        """Append bytes that the stream itself holds; neighbours become one chunk."""
        self._inline += data

    def end_chunk(self) -> None:
        """End the inline chunk here, so that memory stays bounded without external data.

        Readers that parse tar want each header and its inline content within a chunk.
        """
        inline = self._inline
        if inline:
            size = len(inline)
            self.size += size
            chunks = self._chunks
            chunks += _INT.pack(-size)
            chunks += inline
            inline.clear()
            if len(chunks) > _COMPRESSED_AT_ONCE:
                self._compress()

    def external(self, digest: bytes, size: int) -> None:
        """Append the object `digest`, which has `size` bytes."""
        self.end_chunk()
        self.size += size
        index = self._object_index
        self._chunks += _INT.pack(index.setdefault(bytes(digest), len(index)))

    def keep(self, digest: bytes) -> int:
        """Keep the object `digest` alive with this stream, without appending it.

        Returns its index. It is for objects that the content needs without being part of the file.
        """
        index = self._object_index
        return index.setdefault(bytes(digest), len(index))

    def named_ref(self, name: str, digest: bytes) -> None:
        """Refer to another stream (its object `digest`) as `name`, which keeps it alive."""
        encoded = name.encode()
        if b"\0" in encoded:
            raise ValueError(f"NUL in the reference name {name!r}")
        index = self._stream_index
        self._named[encoded] = index.setdefault(bytes(digest), len(index))

    def _compress(self) -> None:
        if compressed := self._compressor.compress(self._chunks):
            self._stream.write(compressed)
        self._chunks.clear()

    def finish(self) -> bytes:
        """The stream as a file. The writer is used up."""
        parts: list[bytes] = []
        self.finish_to(parts.append)
        return b"".join(parts)

    def finish_to(self, write: Callable[[bytes], object]) -> None:
        """Hand the stream to `write` in pieces of at most about 1 MiB. The writer is used up."""
        self.end_chunk()
        self._compress()
        with self._stream as stream:
            stream.write(self._compressor.flush())
            stream_size = stream.tell()
            compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
            names = b"".join(b"%d:%s\0" % (at, name) for name, at in sorted(self._named.items()))
            named_refs = compressor.compress(names) + compressor.flush()

            info_start = _HEADER.size
            at = info_start + _INFO.size
            digests = self.algorithm.digest_size
            sizes = (
                len(self._stream_index) * digests,
                len(self._object_index) * digests,
                len(named_refs),
                stream_size,
            )
            ranges = []
            for size in sizes:
                ranges.append((at, at + size))
                at += size
            stream_refs, object_refs, named, chunks = ranges
            header = _HEADER.pack(
                _MAGIC,
                _VERSION,
                0,
                self.algorithm.kernel_id,
                _LG_BLOCK_SIZE,
                info_start,
                info_start + _INFO.size,
            )
            info = _INFO.pack(
                *stream_refs, *object_refs, *chunks, *named, self.content_type, self.size
            )
            write(header + info + b"".join(self._stream_index))
            objects = iter(self._object_index)
            while part := b"".join(itertools.islice(objects, _PIECE // digests)):
                write(part)
            write(named_refs)
            stream.seek(0)
            while part := stream.read(_PIECE):
                write(part)


class SplitStream:
    """A stream that was read. Its header and references are checked, its chunks when they come."""

    __slots__ = (
        "_chunks",
        "_object_refs",
        "algorithm",
        "content_type",
        "name",
        "named_refs",
        "size",
    )

    algorithm: Algorithm
    content_type: int
    name: str
    """What errors call it."""
    named_refs: dict[str, bytes]
    """Name -> digest of the object of another stream."""
    size: int
    """Bytes of the whole file, as the writer said."""
    _chunks: memoryview  # compressed
    _object_refs: memoryview  # raw digests: as objects, a layer's would be a good part of a tree

    @classmethod
    def parse(cls, data: Buffer, name: str = "stream") -> SplitStream:
        """Read the stream `data`; `RepositoryError` (calling it `name`) where it is damaged."""
        view = memoryview(data)
        self = cls()
        self.name = name
        self.algorithm, info = _read_header(view, name)
        if len(info) < _INFO.size:
            raise _damaged(name, "short info section")
        fields = _INFO.unpack_from(info)
        self.content_type, self.size = fields[8:]
        width = self.algorithm.digest_size
        stream_refs = _split(_digests(view, fields[0], fields[1], width, name), width)
        self._object_refs = _digests(view, fields[2], fields[3], width, name)
        self._chunks = _section(view, fields[4], fields[5], name)
        self.named_refs = _named_refs(_section(view, fields[6], fields[7], name), stream_refs, name)
        return self

    @property
    def object_refs(self) -> list[bytes]:
        """Digests of all objects that the stream needs, each once. Made anew by each use."""
        return _split(self._object_refs, self.algorithm.digest_size)

    def chunks(self) -> Iterator[bytes | Digest]:
        """The stream's parts in order: `Digest` for an object, else bytes, at most 1 MiB at once.

        An inline chunk of the format may come in several pieces. `RepositoryError` where damaged.
        """
        name = self.name
        digests, width = self._object_refs, self.algorithm.digest_size
        count = len(digests) // width
        reader = _decompressor().stream_reader(self._chunks, read_size=_PIECE)
        buffer = b""
        at = 0
        try:
            while True:
                if len(buffer) - at < _INT.size:
                    buffer = _fill(reader, buffer[at:], _INT.size)
                    at = 0
                    if not buffer:
                        return
                    if len(buffer) < _INT.size:
                        raise _damaged(name, "cut within a chunk header")
                (number,) = _INT.unpack_from(buffer, at)
                at += _INT.size
                if number >= 0:
                    if number >= count:
                        raise _damaged(name, f"object {number} of {count}")
                    yield Digest(digests[number * width : (number + 1) * width])
                    continue
                left = -number
                while left:
                    if at == len(buffer):
                        buffer = _fill(reader, b"", 1)
                        at = 0
                        if not buffer:
                            raise _damaged(name, "cut within an inline chunk")
                    piece = buffer[at : at + left]
                    at += len(piece)
                    left -= len(piece)
                    yield piece
        except zstandard.ZstdError as error:
            raise _damaged(name, str(error)) from error


def _damaged(name: str, reason: str) -> RepositoryError:
    return RepositoryError(
        f"{name}: damaged split stream: {reason}",
        hint="'cfs fsck' finds all damage, 'cfs fsck --repair --from SOURCE' fetches it again",
    )


def _read_header(view: memoryview, name: str) -> tuple[Algorithm, memoryview]:
    if len(view) < _HEADER.size:
        raise _damaged(name, "shorter than its header")
    magic, version, _flags, algorithm, block, start, end = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        start, end, _flags, magic, version, algorithm, block = _OLD_HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise _damaged(name, "wrong magic")
    if version != _VERSION:
        raise _damaged(name, f"version {version}, not {_VERSION}")
    if block != _LG_BLOCK_SIZE:
        raise _damaged(name, f"block size 2^{block}, not 2^{_LG_BLOCK_SIZE}")
    try:
        known = Algorithm.from_kernel_id(algorithm)
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    return known, _section(view, start, end, name)


def _section(view: memoryview, start: int, end: int, name: str) -> memoryview:
    if not start <= end <= len(view):
        raise _damaged(name, f"section {start}..{end} of {len(view)} bytes")
    return view[start:end]


def _digests(view: memoryview, start: int, end: int, width: int, name: str) -> memoryview:
    """The section that is an array of digests of `width` bytes each, raw."""
    section = _section(view, start, end, name)
    if len(section) % width:
        raise _damaged(name, "odd size of a reference array")
    return section


def _split(digests: memoryview, width: int) -> list[bytes]:
    return [digest for (digest,) in struct.iter_unpack(f"{width}s", digests)]


def _named_refs(section: memoryview, streams: list[bytes], name: str) -> dict[str, bytes]:
    try:
        reader = _decompressor().stream_reader(section)
        data = _fill(reader, b"", _NAMED_REFS_LIMIT + 1)
    except zstandard.ZstdError as error:
        raise _damaged(name, f"named references: {error}") from error
    if len(data) > _NAMED_REFS_LIMIT:
        raise _damaged(name, "named references without end")
    *records, rest = data.split(b"\0")
    if rest:
        raise _damaged(name, "named references: no end of the last one")
    refs = {}
    for record in records:
        number, colon, key = record.partition(b":")
        if not colon or not number.isdigit() or len(number) > 9 or int(number) >= len(streams):
            raise _damaged(name, "named references: no such stream")
        try:
            refs[key.decode()] = streams[int(number)]
        except UnicodeDecodeError as error:
            raise _damaged(name, "named references: a name is not UTF-8") from error
    return refs


def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)


def _fill(reader: zstandard.ZstdDecompressionReader, start: bytes, wanted: int) -> bytes:
    """`start` and what follows it, at least `wanted` bytes unless the data ends before."""
    parts = [start]
    size = len(start)
    while size < wanted:
        piece = reader.read(_PIECE)
        if not piece:
            break
        parts.append(piece)
        size += len(piece)
    return b"".join(parts)
