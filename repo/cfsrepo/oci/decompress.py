"""Layers unpacked as they stream by: gzip (several members), zstd (several frames), or as they are.

Output comes in chunks of bounded size whatever the ratio, so a bomb costs time and no memory (zstd:
its window, at most 128 MiB as everywhere). gzip is done by ISA-L where it is installed, by zlib
else: ISA-L is nearly twice as fast.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final, Protocol, cast

import zstandard

from cfsrepo.errors import InputError
from cfsrepo.oci.documents import Compression
from cfsrepo.oci.zstdframes import FrameWalk

try:
    from isal import igzip_lib as _isal
except ImportError:
    _isal = None  # type: ignore[assignment]

CHUNK = 1 << 20
_INPUT = 256 << 10
_GZIP_WRAPPER = 16 + zlib.MAX_WBITS
_WINDOW_MAX = 1 << 27


class Source(Protocol):
    """What is read: `read` gives up to `count` bytes, none at the end."""

    name: str

    def read(self, count: int, /) -> bytes: ...


def decompress(source: Source, compression: Compression) -> Iterator[bytes]:
    """The unpacked bytes of `source`; `InputError` where they are damaged or cut off."""
    if compression == Compression.GZIP:
        return _gunzip(source)
    if compression == Compression.ZSTD:
        return _unzstd(source)
    return iter(lambda: source.read(CHUNK), b"")


class _GzipMember(Protocol):
    """What unpacks one gzip member; it keeps the input that it was given and has not used."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZlibMember:
    """zlib's decompressor in the manner of ISA-L's."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_WRAPPER)

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._member.decompress(self._member.unconsumed_tail + data, max_length)


_NEW_MEMBER: Final = cast(
    "Callable[[], _GzipMember]",
    _ZlibMember if _isal is None else lambda: _isal.IgzipDecompressor(flag=_isal.DECOMP_GZIP),
)
_GZIP_ERRORS = cast(
    "tuple[type[Exception], ...]",
    (zlib.error,) if _isal is None else (zlib.error, _isal.IsalError),
)


def _gunzip(source: Source) -> Iterator[bytes]:
    data = source.read(_INPUT)
    try:
        while data:
            member = _NEW_MEMBER()
            while not member.eof:
                if member.needs_input and not data and not (data := source.read(_INPUT)):
                    raise InputError(f"{source.name}: the gzip stream is cut off")
                chunk = member.decompress(data, CHUNK)
                data = b""
                if chunk:
                    yield chunk
            data = member.unused_data or source.read(_INPUT)
    except _GZIP_ERRORS as error:
        raise InputError(f"{source.name}: a damaged gzip stream: {error}") from error


def _unzstd(source: Source) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
    packed = _Packed(source)
    reader = decompressor.stream_reader(
        cast("IO[bytes]", packed), read_size=_INPUT, read_across_frames=True
    )
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except zstandard.ZstdError as error:
        raise InputError(f"{source.name}: a damaged zstd stream: {error}") from error
    if not packed.frames.complete:
        raise InputError(f"{source.name}: the zstd stream is cut off")


class _Packed:
    """A `Source` as zstandard wants it."""

    def __init__(self, source: Source) -> None:
        self.frames = FrameWalk()
        self._source = source

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(_INPUT if size < 0 else size)
        self.frames.feed(data)
        return data
