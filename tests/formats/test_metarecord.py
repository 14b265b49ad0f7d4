"""The record of a bare-user tree: one spelling, strictly read, canonically written."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats import metarecord
from cfsrepo.formats.metarecord import Meta, decode, encode
from cfsrepo.formats.tree import Inode

TYPES = [
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
]
U32 = st.integers(0, 2**32 - 1)


@st.composite
def metas(draw: st.DrawFn) -> Meta:
    kind = draw(st.sampled_from(TYPES))
    keys = (
        st.binary(min_size=1, max_size=20)
        .map(lambda key: key.replace(b"\0", b"0"))
        .filter(lambda key: not key.startswith(metarecord.PREFIX))
    )
    return Meta(
        kind | draw(st.integers(0, 0o7777)),
        draw(U32),
        draw(U32),
        draw(U32) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        draw(st.integers(-(2**63), 2**63 - 1)),
        draw(st.integers(0, 999_999_999)),
        draw(st.dictionaries(keys, st.binary(max_size=30), max_size=4)),
    )


@given(metas())
def test_round_trip(value: Meta) -> None:
    record = encode(value)
    assert decode(record) == value
    assert all(0x20 <= byte < 0x7F for byte in record)


@given(metas(), st.data())
def test_one_spelling(value: Meta, data: st.DataObject) -> None:
    """A record that is changed anywhere is refused, or says something else."""
    record = bytearray(encode(value))
    at = data.draw(st.integers(0, len(record) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != record[at]))
    record[at] = byte
    changed = decode_or_error(bytes(record))
    assert isinstance(changed, InputError) or changed != value


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    for record in (data, b"1 " + data, b"1 100644 0 0 0 0.0 " + data):
        found = decode_or_error(record)
        assert isinstance(found, InputError) or encode(found) == record


def decode_or_error(record: bytes) -> Meta | InputError:
    try:
        return decode(record)
    except InputError as error:
        return error


def test_examples() -> None:
    assert encode(Meta(0o104755, mtime_sec=12, mtime_nsec=5)) == b"1 104755 0 0 0 12.5"
    assert decode(b"1 20666 0 5 259 -1.500000000 user.a=\\x3d\\n\\x20- x=") == Meta(
        0o020666, 0, 5, 259, -1, 500_000_000, {b"user.a": b"=\n -", b"x": b""}
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "no record"),
        (b"1", "damaged"),
        (b"0 100644 0 0 0 0.0", "no record"),
        (b"x 100644 0 0 0 0.0", "no record"),
        (b"2 100644 0 0 0 0.0", "version 2"),
        (b"10 anything", "version 10"),
        (b" 1 100644 0 0 0 0.0", "no record"),
        (b"1  100644 0 0 0 0.0", "damaged"),
        (b"1 100644 0 0 0 0.0\n", "damaged|canonical"),
        (b"1 100644 0 0 0 0.0 ", "damaged|canonical|without"),
        (b"1 100644 0 0 0 0", "damaged"),
        (b"1 100644 0 0 0 0.0\0", "damaged"),
        (b"1 0100644 0 0 0 0.0", "canonical"),
        (b"1 100648 0 0 0 0.0", "damaged"),
        (b"1 644 0 0 0 0.0", "no file type"),
        (b"1 170644 0 0 0 0.0", "no file type"),
        (b"1 1100644 0 0 0 0.0", "no file type"),
        (b"1 100644 00 0 0 0.0", "canonical"),
        (b"1 100644 +1 0 0 0.0", "damaged"),
        (b"1 100644 -1 0 0 0.0", "damaged"),
        (b"1 100644 4294967296 0 0 0.0", "out of range"),
        (b"1 100644 0 0 1 0.0", "not a device"),
        (b"1 100644 0 0 0 -0.0", "canonical"),
        (b"1 100644 0 0 0 0.1000000000", "damaged"),
        (b"1 100644 0 0 0 0.01", "canonical"),
        (b"1 100644 0 0 0 9223372036854775808.0", "out of range"),
        (b"1 100644 0 0 0 0.0 a", "without a value"),
        (b"1 100644 0 0 0 0.0 =x", "usable name"),
        (b"1 100644 0 0 0 0.0 a\\x00b=x", "usable name"),
        (b"1 100644 0 0 0 0.0 b=1 a=2", "canonical"),
        (b"1 100644 0 0 0 0.0 a=1 a=1", "canonical"),
        (b"1 100644 0 0 0 0.0 a=1  b=1", "without a value"),
        (b"1 100644 0 0 0 0.0 a=1=2", "canonical"),
        (b"1 100644 0 0 0 0.0 a=\\x41", "canonical"),
        (b"1 100644 0 0 0 0.0 a=\\xFF", "canonical"),
        (b"1 100644 0 0 0 0.0 a=\\q", "unknown escape"),
        (b"1 100644 0 0 0 0.0 a=\xff", "canonical"),
        (b"1 100644 0 0 0 0.0 user.cfs.meta=x", "user.cfs.meta"),
        (b"1 100644 0 0 0 0.0 user.cfs.x=x", "user.cfs.x"),
        (b"1 100644 0 0 0 0.0 " + b"k" * 256 + b"=", "usable name"),
        (b"1 100644 0 0 0 0.0 a=" + b"v" * 65536, "damaged"),
    ],
)
def test_refused(record: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        decode(record)
    assert str(caught.value).isprintable()


def test_records_have_an_end() -> None:
    with pytest.raises(LimitError, match="65536"):
        encode(Meta(0o100644, xattrs={b"a": b"\xff" * 20_000}))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o104755, 0o755),
        (0o102777, 0o755),
        (0o100000, 0o600),
        (0o100400, 0o600),
        (0o100666, 0o644),
        (0o041777, 0o755),
        (0o040000, 0o700),
        (0o040550, 0o750),
        (0o020666, 0o644),
        (0o120777, 0o755),
    ],
)
def test_modes_on_disk(mode: int, expected: int) -> None:
    assert metarecord.disk_mode(mode) == expected


def test_which_symlinks_are_real() -> None:
    assert metarecord.is_plain_symlink(Inode(0o120777))
    for inode in (
        Inode(0o120755),
        Inode(0o120777, uid=1),
        Inode(0o120777, gid=1),
        Inode(0o120777, xattrs={b"a": b""}),
        Inode(0o100777),
    ):
        assert not metarecord.is_plain_symlink(inode)


@pytest.mark.parametrize("kind", TYPES)
def test_what_may_stand_for_what(kind: int) -> None:
    value = Meta(kind | 0o644)
    good, bad = 0o100600, 0o040700
    if kind == stat.S_IFDIR:
        good, bad = bad, good
    metarecord.check_type(value, good)
    for mode in (bad, 0o120777, 0o010600):
        with pytest.raises(InputError, match="says that this is"):
            metarecord.check_type(value, mode)


@pytest.mark.parametrize(
    ("record", "disk", "same"),
    [
        ((5, 6), (5, 6), True),
        ((5, 6), (5, 7), False),
        ((5, 6), (6, 6), False),
        ((-(2**40), 1), (-(2**31), 0), True),
        ((-(2**40), 1), (-(2**31), 1), False),
        ((253402300800, 0), (15032385535, 0), True),
        ((253402300800, 0), (1_700_000_000, 0), False),
        ((2**31 - 1, 5), (2**31 - 1, 0), True),
        ((-1, 0), (0, 0), False),
    ],
)
def test_is_it_still_the_time(record: tuple[int, int], disk: tuple[int, int], same: bool) -> None:
    value = Meta(0o100644, mtime_sec=record[0], mtime_nsec=record[1])
    assert metarecord.same_time(value, *disk) == same
