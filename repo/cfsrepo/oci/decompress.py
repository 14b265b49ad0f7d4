"""Layers unpacked as they stream by: gzip (several members), zstd (several frames), or as they are.

Output comes in chunks of bounded size whatever the ratio, so a bomb costs time and no memory (zstd:
its window, at most 128 MiB as everywhere). gzip is done by ISA-L where it is installed, by zlib
else: ISA-L is nearly twice as fast.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO, Any, Final, Protocol, cast

import zstandard

from cfsrepo.errors import InputError
from cfsrepo.oci.documents import Compression
from cfsrepo.oci.zstdframes import FrameWalk

try:
    from isal import isal_zlib as _isal
except ImportError:
    _isal = None  # type: ignore[assignment]

CHUNK = 1 << 20
_INPUT = 256 << 10
_GZIP_WRAPPER = 16 + zlib.MAX_WBITS
_WINDOW_MAX = 1 << 27
_DECOMPRESSOR: Final[Any] = zlib if _isal is None else _isal
_GZIP_ERRORS: Final[tuple[type[Exception], ...]] = (zlib.error, _DECOMPRESSOR.error)


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


def _gunzip(source: Source) -> Iterator[bytes]:
    data = source.read(_INPUT)
    try:
        while data:
            member: Any = _DECOMPRESSOR.decompressobj(_GZIP_WRAPPER)
            while not member.eof:
                if not data and not (data := source.read(_INPUT)):
                    raise InputError(f"{source.name}: the gzip stream is cut off")
                chunk = member.decompress(data, CHUNK)
                data = member.unconsumed_tail
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
