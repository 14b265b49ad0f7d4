"""What is written is read back the same, by us and by others."""

from __future__ import annotations

import io
import os
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsrepo.formats.tar.reader import HARDLINK, Member, TarParser
from cfsrepo.formats.tar.writer import END, encode

FIELDS = Member.__slots__
NAMES = (
    st.one_of(st.binary(min_size=1, max_size=30), st.binary(min_size=90, max_size=300))
    .map(lambda name: name.replace(b"\0", b"0").rstrip(b"/"))
    .filter(bool)
)
KINDS = st.sampled_from(
    [stat.S_IFREG, HARDLINK, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFIFO]
)
U32 = st.integers(0, 2**32 - 1)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=9).map(lambda key: b"user." + key.replace(b"\0", b"0")),
    st.binary(max_size=90),
    max_size=3,
)


@st.composite
def members(draw: st.DrawFn) -> Member:
    kind = draw(KINDS)
    size = draw(st.integers(0, 2**63 - 1)) if kind == stat.S_IFREG else 0
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Member(
        kind,
        draw(NAMES),
        link=draw(NAMES) if kind in (HARDLINK, stat.S_IFLNK) else b"",
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(U32),
        gid=draw(U32),
        mtime_sec=draw(st.integers(-(2**62), 2**62)),
        mtime_nsec=draw(st.sampled_from([0, 1, 500_000_000, 999_999_999])),
        rdev=os.makedev(draw(st.integers(0, 4095)), draw(st.integers(0, 0xFFFFF))) if device else 0,
        size=size,
        stored=size,
        xattrs=draw(XATTRS) or None,
    )


@given(members())
def test_round_trip(member: Member) -> None:
    data = encode(member)
    parser = TarParser("test")
    found = parser.parse(data, 0)
    assert found is not None
    assert parser.position == len(data)
    for field in FIELDS:
        assert getattr(found, field) == getattr(member, field)


@pytest.mark.parametrize("length", [*range(80, 110), 980, 985, 986, 987, 988, 989, 990, 995, 1000])
def test_records_count_themselves(length: int) -> None:
    member = Member(
        stat.S_IFLNK, b"x", link=b"t" * length, mode=0o777, xattrs={b"user.a": b"v" * length}
    )
    found = TarParser("test").parse(encode(member), 0)
    assert found is not None
    assert (found.link, found.xattrs) == (member.link, member.xattrs)


def test_others_read_it() -> None:
    member = Member(
        stat.S_IFREG,
        b"d/" * 100 + b"f",
        mode=0o4755,
        uid=2**31,
        gid=5,
        mtime_sec=7,
        mtime_nsec=500_000_000,
        size=3,
        stored=3,
    )
    data = encode(member) + b"abc".ljust(512, b"\0") + END
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (info,) = tar.getmembers()
        assert info.name == "d/" * 100 + "f"
        assert (info.mode, info.uid, info.mtime) == (0o4755, 2**31, 7.5)
        file = tar.extractfile(info)
        assert file is not None
        assert file.read() == b"abc"


def test_what_no_archive_can_hold() -> None:
    for member in (
        Member(stat.S_IFSOCK, b"s"),
        Member(stat.S_IFREG, b"s", size=9, sparse=[(9, 0)]),
    ):
        with pytest.raises(ValueError, match="no archive"):
            encode(member)
