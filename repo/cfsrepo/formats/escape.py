"""Escapes of composefs-dump(5): any bytes as one word of printable ASCII, and back.

Written: `\\\\`, `\\n`, `\\r`, `\\t`, and `\\xHH` (lower case) for every other byte that is not a
printable ASCII character, space included. In extended attributes `=` is written `\\x3d`; a field
that can be unset is written `-` when it is, and then a value of exactly `-` is written `\\x2d`.

Read: the same escapes, hex digits in either case; any other byte stands for itself.
"""

from __future__ import annotations

import re

_SPECIAL = re.compile(rb"[^!-\[\]-~]")
_SPECIAL_OR_EQUAL = re.compile(rb"[^!-<>-\[\]-~]")
_ESCAPE = re.compile(rb"\\(?:x..|.|\Z)", re.DOTALL)

_SHORT = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_ESCAPED = {bytes([byte]): b"\\x%02x" % byte for byte in range(256)} | _SHORT
_HEX = b"0123456789abcdefABCDEF"
_UNESCAPED = {escaped: plain for plain, escaped in _SHORT.items()} | {
    b"\\x%c%c" % (high, low): bytes([int(bytes([high, low]), 16)]) for high in _HEX for low in _HEX
}


def _escape_match(match: re.Match[bytes]) -> bytes:
    return _ESCAPED[match[0]]


def _unescape_match(match: re.Match[bytes]) -> bytes:
    return _UNESCAPED[match[0]]


def escape(data: bytes) -> bytes:
    """`data` as a word (empty for empty data)."""
    if _SPECIAL.search(data) is None:
        return data
    return _SPECIAL.sub(_escape_match, data)


def escape_xattr(data: bytes) -> bytes:
    """The name or the value of an extended attribute as a word without a raw `=`."""
    if _SPECIAL_OR_EQUAL.search(data) is None:
        return data
    return _SPECIAL_OR_EQUAL.sub(_escape_match, data)


def escape_optional(data: bytes | None) -> bytes:
    """A field that can be unset: `-` for None."""
    if data is None:
        return b"-"
    if data == b"-":
        return b"\\x2d"
    return escape(data)


def unescape(word: bytes) -> bytes:
    """The bytes that `word` stands for. ValueError, naming it, for an unknown escape."""
    if b"\\" not in word:
        return word
    try:
        return _ESCAPE.sub(_unescape_match, word)
    except KeyError as error:
        bad = bytes(error.args[0])
        if bad == b"\\" or (bad == b"\\x"):
            raise ValueError("escape cut short at the end of the field") from None
        raise ValueError(f"unknown escape {bad.decode('ascii', 'backslashreplace')}") from None


def unescape_optional(word: bytes) -> bytes | None:
    """As `unescape`; None for a lone `-`, which says that the field is unset."""
    return None if word == b"-" else unescape(word)
