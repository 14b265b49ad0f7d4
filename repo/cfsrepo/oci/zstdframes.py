"""Where zstd frames end, told from their headers alone (RFC 8878, section 3.1).

The library's streaming reader takes the end of the input in the middle of a frame for the end of
the data. `FrameWalk` sees the packed bytes go by and knows better; it looks at block headers only,
so it costs next to nothing.
"""

from __future__ import annotations

from typing import Final

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte 0x50..0x5f
_RLE: Final = 1
_CONTENT_SIZE: Final = (0, 2, 4, 8)
_DICTIONARY: Final = (0, 1, 2, 4)


class FrameWalk:
    """Follows packed data that comes in pieces of any size."""

    def __init__(self) -> None:
        self._skip = 0  # bytes of contents to pass over
        self._rest = b""  # of a header that is not whole yet
        self._blocks = False  # within a frame, before its last block
        self._checksum = False
        self._lost = False

    @property
    def complete(self) -> bool:
        """Did the data end with a frame? True as well for what are no frames at all: that is for
        the decompressor to say."""
        return self._lost or not (self._skip or self._rest or self._blocks)

    def feed(self, data: bytes) -> None:
        """The next piece."""
        at = min(self._skip, len(data))
        self._skip -= at
        if self._rest:
            data, at, self._rest = self._rest + data[at:], 0, b""
        while at < len(data) and not self._lost:
            size = self._block(data, at) if self._blocks else self._header(data, at)
            if size == 0:
                self._rest = data[at:]
                return
            at += size
            skipped = min(self._skip, len(data) - at)
            at += skipped
            self._skip -= skipped

    def _header(self, data: bytes, at: int) -> int:
        """Length of the frame header at `at`; 0: it is not whole."""
        magic = data[at : at + 4]
        if len(magic) < 4:
            return 0
        if magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5:
            if len(data) < at + 8:
                return 0
            self._skip = int.from_bytes(data[at + 4 : at + 8], "little")
            return 8
        if magic != _MAGIC:
            self._lost = True
            return 4
        if len(data) < at + 5:
            return 0
        descriptor = data[at + 4]
        single = descriptor & 0x20
        size = 5 + _DICTIONARY[descriptor & 3] + (0 if single else 1)
        size += _CONTENT_SIZE[descriptor >> 6] or (1 if single else 0)
        if len(data) < at + size:
            return 0
        self._blocks = True
        self._checksum = bool(descriptor & 0x04)
        return size

    def _block(self, data: bytes, at: int) -> int:
        """Length of the block header at `at`; 0: it is not whole."""
        if len(data) < at + 3:
            return 0
        header = int.from_bytes(data[at : at + 3], "little")
        self._skip = 1 if (header >> 1) & 3 == _RLE else header >> 3
        if header & 1:
            self._blocks = False
            self._skip += 4 if self._checksum else 0
        return 3
