"""Escapes of the dump format: the table of composefs-dump(5), refusals, and the round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsrepo.formats import escape


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", b""),
        (b"plain-name_1.txt", b"plain-name_1.txt"),
        (b"a b", b"a\\x20b"),
        (b"back\\slash", b"back\\\\slash"),
        (b"\n\r\t", b"\\n\\r\\t"),
        (b"\x00\x1f\x7f\x80\xff", b"\\x00\\x1f\\x7f\\x80\\xff"),
        (b"a=b", b"a=b"),
        (b"-", b"-"),
        (b"!~[]", b"!~[]"),
    ],
)
def test_escape_table(data: bytes, word: bytes) -> None:
    assert escape.escape(data) == word
    assert escape.unescape(word) == data


def test_equal_sign_is_escaped_in_xattrs_only() -> None:
    assert escape.escape_xattr(b"a=b c\\") == b"a\\x3db\\x20c\\\\"
    assert escape.escape_xattr(b"-") == b"-"


def test_unset_and_a_value_of_one_dash_differ() -> None:
    assert escape.escape_optional(None) == b"-"
    assert escape.escape_optional(b"-") == b"\\x2d"
    assert escape.escape_optional(b"--") == b"--"
    assert escape.escape_optional(b"") == b""
    assert escape.unescape_optional(b"-") is None
    assert escape.unescape_optional(b"\\x2d") == b"-"
    assert escape.unescape_optional(b"") == b""


def test_hex_digits_of_either_case() -> None:
    assert escape.unescape(b"\\xaB\\xAb\\xAB\\xab") == b"\xab" * 4


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (b"a\\", "cut short"),
        (b"a\\x", "cut short"),
        (b"a\\x4", "cut short"),
        (b"\\xg0", "unknown escape"),
        (b"\\x0g", "unknown escape"),
        (b"\\x-1", "unknown escape"),
        (b"\\q", "unknown escape"),
        (b"\\N", "unknown escape"),
        (b"\\\xff", "unknown escape"),
        (b"\\\\\\", "cut short"),
    ],
)
def test_bad_escapes_are_refused(word: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        escape.unescape(word)


@given(st.binary(max_size=300))
def test_round_trip_and_alphabet(data: bytes) -> None:
    word = escape.escape(data)
    assert all(0x21 <= byte <= 0x7E for byte in word)
    assert escape.unescape(word) == data
    assert b"=" not in escape.escape_xattr(data)
    assert escape.unescape(escape.escape_xattr(data)) == data
    assert escape.unescape_optional(escape.escape_optional(data)) == data
