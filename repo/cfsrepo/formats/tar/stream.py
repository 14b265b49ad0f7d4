"""A tar archive that streams by: members, their data, the bytes around it; bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cfsrepo.errors import InputError
from cfsrepo.formats.tar.headerfields import BLOCK
from cfsrepo.formats.tar.reader import Member, TarParser

_SMALL = 256 << 10  # bytes of data that are worth copying to have them in one piece


class TarStream:
    """Members and contents of an archive that arrives in `chunks` (of any size, never all kept).

    `next()` gives the next member, having skipped what was not read of the last one's data;
    `read_data()` gives the data of the current member, piece by piece, as stored. `on_header`, if
    given, is called with all bytes of the input that are no file data: the padding after a member's
    data, then the headers of the next one; at last the end marker and what follows it, in pieces.
    With the data they make up the archive byte for byte.
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        name: str,
        *,
        on_header: Callable[[bytes], object] | None = None,
    ) -> None:
        self._chunks = chunks
        self._parser = TarParser(name)
        self._name = name
        self._on_header = on_header
        self._buffer = b""
        self._position = 0
        self._data_left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        while (member := self.next()) is not None:
            yield member

    def next(self) -> Member | None:
        """The next member; None at the end, when all input was consumed."""
        if self._data_left:
            for _ in self.read_data():
                pass
        # Padding and headers are handed on together, where they are in memory together.
        padding = self._padding
        if padding and len(self._buffer) - self._position < padding + BLOCK:
            self._skip_padding()
            padding = 0
        parser = self._parser
        while True:
            member = parser.parse(self._buffer, self._position + padding)
            if member is not None:
                self._header(parser.position)
                self._data_left = stored = member.stored
                self._padding = -stored % BLOCK
                return member
            if padding:
                self._skip_padding()
                padding = 0
            if parser.ended:
                self._rest()
                return None
            while len(self._buffer) - self._position < parser.need:
                if not self._more():
                    parser.at_end(self._buffer, self._position)
                    self._rest()
                    return None

    def read_data(self) -> Iterator[memoryview]:
        """What is left of the current member's data, in pieces."""
        while self._data_left:
            if self._position == len(self._buffer) and not self._more():
                raise self._cut()
            end = min(self._position + self._data_left, len(self._buffer))
            piece = memoryview(self._buffer)[self._position : end]
            self._data_left -= len(piece)
            self._position = end
            yield piece

    def take_data(self) -> bytes | None:
        """The current member's whole data if it is in memory already or small (the quick way);
        None: use `read_data`."""
        end = self._position + self._data_left
        if end > len(self._buffer):
            if self._data_left > _SMALL or not self._more():
                return None
            end = self._position + self._data_left
            if end > len(self._buffer):
                return None
        data = self._buffer[self._position : end]
        self._position, self._data_left = end, 0
        return data

    def _skip_padding(self) -> None:
        while len(self._buffer) - self._position < self._padding:
            if not self._more():
                raise self._cut()
        self._header(self._position + self._padding)
        self._padding = 0

    def _header(self, end: int) -> None:
        if self._on_header is not None:
            self._on_header(self._buffer[self._position : end])
        self._position = end

    def _rest(self) -> None:
        """Take whatever follows the last member, as header bytes."""
        self._header(len(self._buffer))
        while self._more():
            self._header(len(self._buffer))

    def _more(self) -> bool:
        """Append the next chunk to the buffer; False at the end of the input."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        left = self._buffer[self._position :]
        self._buffer, self._position = (left + chunk if left else chunk), 0
        return True

    def _cut(self) -> InputError:
        return InputError(f"{self._name}: the archive is cut off in a file's data")
