"""Damaged and hostile archives: an error that says what is wrong, never more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.tar.reader import METADATA_MAX
from tests.formats.tar_helpers import expanded, only, read, read_or_error
from tests.oci.oci_builder import (
    BLOCK,
    CHAR,
    DIR,
    END,
    archive,
    checksummed,
    hardlink,
    header,
    long_header,
    member,
    padded,
    pax_header,
    symlink,
)

DAMAGED = {
    "cut in a header": (member(b"x")[:200], "cut off in a header"),
    "cut in data": (member(b"x", b"d" * 600)[:700], "cut off in a file"),
    "cut in padding": (member(b"x", b"d" * 600)[:-5], "cut off in a file"),
    "cut in an extension": (pax_header({b"path": b"x"})[:600], "cut off in a header"),
    "nothing after an extension": (pax_header({b"path": b"x"}), "cut off|checksum|not followed"),
    "end after an extension": (pax_header({b"path": b"x"}) + END, "not followed"),
    "checksum": (b"y" + member(b"x")[1:], "checksum"),
    "no header at all": (b"z" * 512, "checksum"),
    "checksum of spaces": (member(b"x")[:148] + b" " * 8 + member(b"x")[156:], "checksum"),
    "lone zero block": (bytes(BLOCK) + member(b"x"), "single block of zeros"),
    "no name": (member(b""), "no name"),
    "no target": (symlink(b"x", b""), "no target"),
    "no target of a hard link": (hardlink(b"x", b""), "no target"),
    "unknown kind": (member(b"x", kind=b"V"), "type is unknown"),
    "GNU multi-volume": (member(b"x", kind=b"M"), "type is unknown"),
    "negative size": (member(b"x", size=-1), "size out of range"),
    "size of 95 bits": (member(b"x", size=2**90), "size out of range"),
    "two pax headers": (
        pax_header({b"path": b"a"}) + pax_header({b"path": b"b"}) + member(b"x"),
        "two of pax",
    ),
    "two long names": (
        long_header(b"L", b"a") + long_header(b"L", b"b") + member(b"x"),
        "two of GNU long name",
    ),
    "NUL in a path": (member(b"x", pax={b"path": b"a\0b"}), "NUL"),
    "pax record without =": (
        header(b"p", b"x", size=7) + padded(b"7 abcd\n") + member(b"x"),
        "rec",
    ),
    "pax length 0": (header(b"p", b"x", size=6) + padded(b"0 a=b\n") + member(b"x"), "record"),
    "pax too long": (header(b"p", b"x", size=6) + padded(b"9 a=b\n") + member(b"x"), "record"),
    "pax too short": (header(b"p", b"x", size=6) + padded(b"5 a=b\n") + member(b"x"), "record"),
    "pax no length": (header(b"p", b"x", size=6) + padded(b" 6a=b\n") + member(b"x"), "record"),
    "sparse without GNU": (member(b"x", kind=b"S"), "without GNU"),
    "sparse map odd": (member(b"x", pax={b"GNU.sparse.map": b"1,2,3"}), "odd number"),
    "sparse map of words": (member(b"x", pax={b"GNU.sparse.map": b"a,b"}), "no number"),
    "sparse backwards": (
        member(b"x", b"ab", pax={b"GNU.sparse.map": b"5,1,2,1", b"GNU.sparse.size": b"9"}),
        "out of order",
    ),
    "sparse beyond the end": (
        member(b"x", b"ab", pax={b"GNU.sparse.map": b"5,2", b"GNU.sparse.size": b"6"}),
        "contradicts",
    ),
    "sparse with more data": (
        member(b"x", b"abc", pax={b"GNU.sparse.map": b"5,2", b"GNU.sparse.size": b"9"}),
        "contradicts",
    ),
    "sparse numbytes alone": (member(b"x", pax={b"GNU.sparse.numbytes": b"5"}), "without"),
    "sparse of the future": (
        member(b"x", pax={b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}),
        "unknown version",
    ),
    "sparse map without end": (
        member(b"x", b"9\n" * 4, pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}),
        "sparse",
    ),
    "sparse directory": (
        member(b"x", kind=DIR, pax={b"GNU.sparse.map": b"", b"GNU.sparse.size": b"9"}),
        "only a regular file",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_damage(case: str, size: int) -> None:
    data, message = DAMAGED[case]
    with pytest.raises(InputError, match=message):
        read(data, size)


def test_metadata_is_bounded() -> None:
    with pytest.raises(LimitError, match="metadata"):
        only(member(b"x", pax={b"comment": b"c" * (METADATA_MAX + 1)}))
    # What its header only promises is not waited for.
    with pytest.raises(LimitError, match="metadata"):
        read(header(b"p", b"x", size=1 << 40) + bytes(512))
    with pytest.raises(LimitError, match="metadata"):
        only(pax_header({b"a": b"b"}, b"g") * 17 + member(b"x"))
    with pytest.raises(LimitError, match="over the limit"):
        only(member(b"x", pax={b"GNU.sparse.map": b"", b"GNU.sparse.size": b"%d" % 2**40}))
    many = b",".join(b"%d,0" % number for number in range(70_000))
    with pytest.raises(LimitError, match="over the limit"):
        only(member(b"x", pax={b"GNU.sparse.map": many, b"GNU.sparse.size": b"70000"}))


SAMPLE = archive(
    member(b"n" * 200, b"x" * 700, pax={b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"v"}),
    symlink(b"s", b"t" * 150),
    member(
        b"sparse",
        b"2\n0\n1\n9\n1\n".ljust(512, b"\0") + b"ab",
        pax={
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": b"real",
            b"GNU.sparse.realsize": b"10",
        },
    ),
    member(b"c", kind=CHAR, device=(1, 3)),
)


def test_the_sample_is_sound() -> None:
    found = read(SAMPLE)
    assert [item.path for item, _ in found] == [b"n" * 200, b"s", b"real", b"c"]
    assert expanded(*found[2]) == b"a" + bytes(8) + b"b"


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6
    ),
    st.booleans(),
    st.integers(100, 9000),
)
def test_damaged_archives_are_errors_or_archives(
    changes: list[tuple[int, int]], fix: bool, size: int
) -> None:
    data = bytearray(SAMPLE)
    for offset, value in changes:
        data[offset] = value
    if fix:  # get past the checksum
        for offset, _ in changes:
            start = offset // BLOCK * BLOCK
            data[start : start + BLOCK] = checksummed(bytes(data[start : start + BLOCK]))
    found = read_or_error(bytes(data), size)
    if isinstance(found, InputError):
        assert str(found).isprintable()
    else:
        assert all(len(content) == item.stored for item, content in found)


@settings(max_examples=200)
@given(st.binary(max_size=3000))
def test_any_bytes(data: bytes) -> None:
    found = read_or_error(data, 700)
    assert found == [] or (isinstance(found, InputError) and str(found).isprintable())
