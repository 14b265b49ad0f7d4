"""Members of archives: every dialect, every number, every way to lie."""

from __future__ import annotations

import base64
import io
import os
import stat
import subprocess
import tarfile

import pytest

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.tar import headerfields
from cfsrepo.formats.tar.reader import HARDLINK, TarParser
from cfsrepo.formats.tar.stream import TarStream
from tests.conftest import Peer
from tests.formats.tar_helpers import cut, expanded, only, read
from tests.oci.oci_builder import (
    BLOCK,
    CHAR,
    DIR,
    END,
    FIFO,
    GNU,
    SYMLINK,
    V7,
    archive,
    checksummed,
    directory,
    header,
    long_header,
    member,
    padded,
    pax_header,
    symlink,
)


def test_common_member() -> None:
    data = b"hello"
    found, content = read(archive(member(b"a/b", data, mode=0o4755, uid=1, gid=2, mtime=3)))[0]
    assert content == data
    assert (found.kind, found.path, found.mode) == (stat.S_IFREG, b"a/b", 0o4755)
    assert (found.uid, found.gid, found.mtime_sec, found.mtime_nsec) == (1, 2, 3, 0)
    assert (found.size, found.stored, found.padding) == (5, 5, 507)
    assert found.xattrs is None
    assert found.sparse is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"0", stat.S_IFREG),
        (b"\0", stat.S_IFREG),
        (b"7", stat.S_IFREG),
        (b"1", HARDLINK),
        (SYMLINK, stat.S_IFLNK),
        (CHAR, stat.S_IFCHR),
        (b"4", stat.S_IFBLK),
        (DIR, stat.S_IFDIR),
        (FIFO, stat.S_IFIFO),
    ],
)
def test_kinds(kind: bytes, expected: int) -> None:
    assert only(member(b"x", kind=kind, link=b"target")).kind == expected


def test_a_v7_directory_is_told_by_its_slash() -> None:
    assert only(header(b"d/", b"\0", magic=V7)).kind == stat.S_IFDIR
    assert only(header(b"d/", b"0")).kind == stat.S_IFREG


def test_devices() -> None:
    assert only(member(b"x", kind=CHAR, device=(511, 70_000))).rdev == os.makedev(511, 70_000)
    with pytest.raises(LimitError, match="device number"):
        only(member(b"x", kind=CHAR, device=(4096, 0)))
    with pytest.raises(InputError, match="without device numbers"):
        only(member(b"x", kind=CHAR, magic=V7))


def test_prefix_counts_in_ustar_only() -> None:
    assert only(member(b"name", prefix=b"some/where")).path == b"some/where/name"
    assert only(member(b"name", prefix=b"some/where", magic=GNU)).path == b"name"


def test_names_of_full_width_have_no_end() -> None:
    assert only(member(b"n" * 100)).path == b"n" * 100
    assert only(symlink(b"x", b"l" * 100)).link == b"l" * 100


def test_gnu_long_names() -> None:
    assert only(member(b"n" * 5000)).path == b"n" * 5000
    found = only(symlink(b"n" * 300, b"l" * 300))
    assert (found.path, found.link) == (b"n" * 300, b"l" * 300)


def test_pax_wins_over_gnu_over_header() -> None:
    data = long_header(b"L", b"gnu") + member(b"header", pax={b"path": b"pax"})
    assert only(data).path == b"pax"
    assert only(long_header(b"L", b"gnu") + member(b"header")).path == b"gnu"


def test_global_headers_say_nothing() -> None:
    found = only(pax_header({b"path": b"global", b"uid": b"7"}, b"g") + member(b"own"))
    assert (found.path, found.uid) == (b"own", 0)
    with pytest.raises(InputError, match="damaged record"):
        only(header(b"g", b"g", size=3) + padded(b"9 x") + member(b"x"))


def test_base_256_numbers() -> None:
    found = only(member(b"x", uid=2**32 - 1, gid=2**21, mtime=-(2**40)))
    assert (found.uid, found.gid, found.mtime_sec) == (2**32 - 1, 2**21, -(2**40))
    assert only(header(b"x", mtime=2**62)).mtime_sec == 2**62


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000017\0", 15),
        (b"     17\0", 15),
        (b"17 \0xxxx", 15),
        (b"17      ", 15),
        (b"00000017", 15),
        (bytes(8), 0),
        (b"        ", 0),
    ],
)
def test_octal_numbers(field: bytes, value: int) -> None:
    assert headerfields.number(field, "x") == value


@pytest.mark.parametrize(
    "field", [b"-0000017", b"+0000017", b"0_000017", b"0000018\0", b"0x17\0\0\0\0"]
)
def test_what_is_no_octal_number(field: bytes) -> None:
    with pytest.raises(headerfields.FieldError):
        headerfields.number(field, "x")
    # The quick way of the parser is as strict.
    for offset, width in ((124, 12), (136, 12)):
        block = bytearray(header(b"x"))
        block[offset : offset + width] = field.rjust(width, b"0")
        with pytest.raises(InputError, match="number"):
            only(checksummed(bytes(block)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"12", (12, 0)),
        (b"12.5", (12, 500_000_000)),
        (b"12.", (12, 0)),
        (b"12.1234567899", (12, 123_456_789)),
        (b"-12", (-12, 0)),
        (b"-1.5", (-2, 500_000_000)),
        (b"-0.000000001", (-1, 999_999_999)),
    ],
)
def test_pax_times(text: bytes, expected: tuple[int, int]) -> None:
    found = only(member(b"x", pax={b"mtime": text}))
    assert (found.mtime_sec, found.mtime_nsec) == expected


@pytest.mark.parametrize("text", [b"", b"x", b"1e5", b"1.5.5", b"+1", b" 1", b"1" * 65, b"."])
def test_what_is_no_pax_time(text: bytes) -> None:
    with pytest.raises(InputError, match="no time"):
        only(member(b"x", pax={b"mtime": text}))


def test_times_that_fit_no_clock() -> None:
    with pytest.raises(LimitError, match="modification time"):
        only(member(b"x", pax={b"mtime": b"9" * 30}))


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"x", b"0x1", b"9" * 21])
@pytest.mark.parametrize("key", [b"uid", b"gid", b"size"])
def test_what_is_no_pax_number(key: bytes, value: bytes) -> None:
    with pytest.raises(InputError):
        only(member(b"x", pax={key: value}))


def test_ids_over_32_bits() -> None:
    for data in (member(b"x", uid=2**32), member(b"x", pax={b"gid": b"4294967296"})):
        with pytest.raises(LimitError, match="32 bits"):
            only(data)
    with pytest.raises(LimitError, match="32 bits"):
        only(member(b"x", uid=-2))


def test_xattrs() -> None:
    found = only(
        member(
            b"x",
            pax=[
                (b"LIBARCHIVE.xattr.user.a", base64.b64encode(b"other").rstrip(b"=")),
                (b"LIBARCHIVE.xattr.user.b%20c", base64.b64encode(b"lib")),
                (b"RHT.security.selinux", b"label"),
                (b"SCHILY.xattr.user.a", b"a=\nb\0"),
                (b"SCHILY.xattr.user.x%3Dy%253D", b""),
            ],
        )
    )
    assert found.xattrs == {
        b"user.a": b"a=\nb\0",
        b"user.b c": b"lib",
        b"security.selinux": b"label",
        b"user.x=y%3D": b"",
    }
    with pytest.raises(InputError, match="base64"):
        only(member(b"x", pax={b"LIBARCHIVE.xattr.user.a": b"???"}))


def test_only_schily() -> None:
    data = archive(member(b"x", pax={b"LIBARCHIVE.xattr.user.a": b"QQ"}))
    found = TarParser("test", only_schily=True).parse(data, 0)
    assert found is not None
    assert found.xattrs is None


def test_only_files_have_data() -> None:
    for kind in (DIR, FIFO, CHAR, SYMLINK, b"1"):
        found = only(member(b"x", kind=kind, link=b"t", size=512))
        assert (found.size, found.stored) == (0, 0)


def test_trailing_slashes_go() -> None:
    assert only(directory(b"d///")).path == b"d"
    assert only(directory(b"///")).path == b"/"


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 5000])
def test_chunks_of_any_size(size: int) -> None:
    data = archive(
        member(b"n" * 300, b"x" * 5000, pax={b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"v" * 700}),
        directory(b"d"),
        member(b"e", b""),
        member(b"f", b"y" * 512),
    )
    raw: list[bytes] = []
    stream = TarStream(cut(data, size), "test", on_header=raw.append)
    found = []
    for item in stream:
        content = b"".join(stream.read_data())
        raw.append(content)
        found.append((item.path, content))
    assert found == [(b"n" * 300, b"x" * 5000), (b"d", b""), (b"e", b""), (b"f", b"y" * 512)]
    assert b"".join(raw) == data


def test_unread_data_is_skipped() -> None:
    data = archive(member(b"a", b"x" * 100_000), member(b"b", b"y"))
    stream = TarStream(cut(data, 1000), "test")
    assert [found.path for found in stream] == [b"a", b"b"]
    stream = TarStream(cut(data, 1000), "test")
    assert stream.next() is not None
    assert stream.take_data() is None
    assert b"".join(stream.read_data()) == b"x" * 100_000
    # A small file is put together where it takes one chunk more.
    stream = TarStream(cut(data, 100_000), "test")
    assert stream.next() is not None
    assert stream.take_data() == b"x" * 100_000
    stream = TarStream(cut(data, 1000), "test")
    assert stream.next() is not None
    assert len(next(stream.read_data())) <= 1000
    found = stream.next()
    assert found is not None
    assert found.path == b"b"
    assert stream.take_data() == b"y"


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, END + bytes(8192), END + b"garbage"])
def test_ends(end: bytes) -> None:
    ((found, content),) = read(member(b"x", b"data") + end, 700)
    assert (found.path, content) == (b"x", b"data")
    assert read(end) == []


@pytest.mark.interop
@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
)
@pytest.mark.parametrize("parts", [0, 1, 3, 4, 5, 60])
def test_sparse_files_of_gnu_tar(
    options: list[str], parts: int, peer: Peer, tmp_path: object
) -> None:
    path = f"{tmp_path}/{'n' * 120}"
    size = 1 << 20
    with open(path, "wb") as file:
        for number in range(parts):
            file.seek(number * 16384 + 4096)
            file.write(bytes([number + 1]) * 4096)
        file.truncate(size)
    with open(path, "rb") as file:
        content = file.read()
    tar = subprocess.run(
        [peer("tar"), "-c", "--sparse", *options, "-C", str(tmp_path), "n" * 120],
        check=True,
        capture_output=True,
    ).stdout
    for chunk in (512, 1 << 20):
        ((found, stored),) = read(tar, chunk)
        assert found.path == b"n" * 120
        assert found.size == size
        assert len(stored) < 10 * 4096 or parts > 5
        assert expanded(found, stored) == content


def test_as_tarfile_writes_them() -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for number in range(200):
                info = tarfile.TarInfo(f"dir/{'x' * (number // 2)}/file-{number}")
                info.size = number * 10
                info.mode, info.uid, info.mtime = 0o640, number * 1000, number
                tar.addfile(info, io.BytesIO(b"d" * info.size))
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            expected = [
                (info.name.encode(), info.mode, info.uid, info.mtime, info.size) for info in tar
            ]
        found = [
            (item.path, item.mode, item.uid, item.mtime_sec, len(data))
            for item, data in read(out.getvalue(), 4000)
        ]
        assert found == expected
