"""The fields of tar headers: numbers, pax records, maps of sparse files. Bytes to values, no state.

Every function raises `FieldError` for what it cannot read; `cfsrepo.formats.tar.reader` says of
which member in which archive. Grammar and limits are those of the references named there.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from zlib import adler32

from cfsrepo.errors import printable

BLOCK = 512
SPARSE_ENTRIES_MAX = 1 << 16
SPARSE_SIZE_MAX = 1 << 36  # 64 GiB: a sparse file of any size costs the archive nothing

SparseMap = list[tuple[int, int]]  # (offset, length) of the parts that have data, ascending

_OCTAL = re.compile(rb"[ \t\n\v\f\r]*([0-7]*)[ \t\n\v\f\r]*(?:\0.*)?", re.DOTALL)
_DECIMAL = re.compile(rb"[0-9]+")
_TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?")


class FieldError(Exception):
    """A field is damaged, or (`limit`) well-formed but over a bound."""

    def __init__(self, message: str, *, limit: bool = False) -> None:
        super().__init__(message)
        self.limit = limit


def number(field: bytes, what: str) -> int:
    """A number field: octal digits, or base-256 two's complement when the top bit is set."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise FieldError(f"{what} is no number: {printable(field)}")
    return int(match[1] or b"0", 8)


def checksum_matches(buffer: bytes, start: int, field: bytes) -> bool:
    """Does the header block at `start` have the checksum that its `field` says?

    The checksum is the sum of all bytes, the field itself taken as spaces. The low half of Adler-32
    is such a sum (plus one, modulo 65521), and no 256 bytes can reach the modulus: two calls give
    the exact sum some twenty times faster than a loop.
    """
    middle = start + 256
    total = (
        (adler32(buffer[start:middle]) & 0xFFFF)
        + (adler32(buffer[middle : middle + 256]) & 0xFFFF)
        - 2
        - sum(field)
        + 8 * 0x20
    )
    if field == b"%06o\0 " % total:
        return True
    match = _OCTAL.fullmatch(field)
    if match is None or not match[1]:
        return False
    wanted = int(match[1], 8)
    if wanted == total:
        return True
    # Some historical writers summed signed bytes.
    high = sum(byte >= 0x80 for byte in buffer[start : start + BLOCK])
    return wanted == total - 256 * (high - sum(byte >= 0x80 for byte in field))


def decimal(key: bytes, value: bytes) -> int:
    """A decimal number of a pax record."""
    if len(value) > 20 or not _DECIMAL.fullmatch(value):
        raise FieldError(f"{printable(key)} of a pax header is no number: {printable(value[:64])}")
    return int(value)


def text(key: bytes, value: bytes) -> bytes:
    """A name of a pax record."""
    if b"\0" in value:
        raise FieldError(f"NUL in {printable(key)} of a pax header")
    return value


def time(value: bytes) -> tuple[int, int]:
    """Seconds and nanoseconds of a pax time. The fraction is cut to nanoseconds and, as in struct
    timespec, counts upwards before 1970 too: -1.5 is -2 seconds and 500000000 nanoseconds."""
    match = _TIME.fullmatch(value) if len(value) <= 64 else None
    if match is None:
        raise FieldError(f"mtime of a pax header is no time: {printable(value[:64])}")
    sec, nsec = int(match[2]), int((match[3] or b"")[:9].ljust(9, b"0"))
    if not match[1]:
        return sec, nsec
    return (-sec - 1, 1_000_000_000 - nsec) if nsec else (-sec, 0)


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, value) records of a pax header, in order: `LENGTH KEY=VALUE\\n`..."""
    records = []
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        after = at + length
        equals = data.find(b"=", space + 1, after)
        if length == 0 or after > end or equals < 0 or data[after - 1] != 0x0A:
            raise FieldError("a damaged record in a pax header")
        records.append((data[space + 1 : equals], data[equals + 1 : after - 1]))
        at = after
    return records


def pax_xattr(xattrs: dict[bytes, bytes], key: bytes, value: bytes, *, only_schily: bool) -> None:
    """Take a pax record into `xattrs` if it holds an extended attribute.

    `SCHILY.xattr.*` wins over the other spellings, which `only_schily` ignores.
    """
    if key.startswith(b"SCHILY.xattr."):
        # GNU tar escapes the two characters that a key cannot have.
        xattrs[key[13:].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
    elif only_schily:
        return
    elif key.startswith(b"LIBARCHIVE.xattr."):
        name = urllib.parse.unquote_to_bytes(key[17:])
        try:
            decoded = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error as error:
            raise FieldError(f"{printable(key)} is no base64") from error
        xattrs.setdefault(name, decoded)
    elif key == b"RHT.security.selinux":
        xattrs.setdefault(b"security.selinux", value)


# -- sparse files ---------------------------------------------------------------------------------


class PaxSparse:
    """What the GNU.sparse.* records of one pax header say."""

    __slots__ = ("_offset", "major", "minor", "name", "parts", "real_size")

    def __init__(self) -> None:
        self.major: int | None = None
        self.minor: int | None = None
        self.name: bytes | None = None
        self.parts: SparseMap | None = None
        self.real_size = 0
        self._offset: int | None = None

    def take(self, key: bytes, value: bytes) -> None:
        """Take the record GNU.sparse.`key`; unknown ones are ignored."""
        if key == b"name":
            self.name = text(key, value)
        elif key in (b"realsize", b"size"):
            self.real_size = decimal(key, value)
        elif key == b"major":
            self.major = decimal(key, value)
        elif key == b"minor":
            self.minor = decimal(key, value)
        elif key == b"offset":
            self._offset = decimal(key, value)
        elif key == b"numbytes":
            if self._offset is None:
                raise FieldError("GNU.sparse.numbytes without GNU.sparse.offset")
            self.parts = self.parts or []
            self.parts.append((self._offset, decimal(key, value)))
            self._offset = None
        elif key == b"map":
            parts = value.split(b",") if value else []
            self.parts = pairs([decimal(b"GNU.sparse.map", part) for part in parts])

    @property
    def map_in_data(self) -> bool:
        """Format 1.0: the map stands in front of the data (see `sparse_map_lines`)."""
        return self.major == 1 and self.minor == 0


def pairs(numbers: list[int]) -> SparseMap:
    """Offset, length, offset, length... as a map."""
    if len(numbers) % 2:
        raise FieldError("a sparse map with an odd number of values")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def sparse_map_slots(buffer: bytes, start: int, slots: int) -> SparseMap:
    """The entries of GNU's old format in the `slots` slots of 24 bytes from `start`."""
    parts: SparseMap = []
    for slot in range(start, start + 24 * slots, 24):
        if buffer[slot + 12] == 0:
            break
        offset = number(buffer[slot : slot + 12], "offset")
        parts.append((offset, number(buffer[slot + 12 : slot + 24], "length")))
    return parts


def sparse_map_lines(buffer: bytes, start: int) -> tuple[SparseMap, int] | None:
    """The map of format 1.0, decimal lines from `start` on, and where it ends (not yet rounded up
    to a block); None when the buffer ends before it."""
    numbers: list[int] = []
    wanted, line = 1, start
    while len(numbers) < wanted:
        newline = buffer.find(b"\n", line, line + 21)
        if newline < 0:
            if len(buffer) < line + 21:
                return None
            raise FieldError("a sparse map that is no list of numbers")
        numbers.append(decimal(b"GNU.sparse.map", buffer[line:newline]))
        if len(numbers) == 1:
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > SPARSE_ENTRIES_MAX:
                raise FieldError(f"more than {SPARSE_ENTRIES_MAX} parts in a file", limit=True)
        line = newline + 1
    return pairs(numbers[1:]), line


def check_sparse(parts: SparseMap, real_size: int, stored: int) -> None:
    """The map must be ascending, within the file, and account for each stored byte."""
    if real_size > SPARSE_SIZE_MAX or len(parts) > SPARSE_ENTRIES_MAX:
        raise FieldError(
            f"a sparse file of {real_size} bytes in {len(parts)} parts is over the limit "
            f"({SPARSE_SIZE_MAX} bytes, {SPARSE_ENTRIES_MAX} parts)",
            limit=True,
        )
    end = total = 0
    for offset, length in parts:
        if offset < end or length < 0:
            raise FieldError("the map of a sparse file is out of order")
        end = offset + length
        total += length
    if end > real_size or total != stored:
        raise FieldError("the map of a sparse file contradicts its size")
