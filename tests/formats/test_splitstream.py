"""The split stream codec: bytes of cfsctl, round trips, and damage that must be noticed."""

from __future__ import annotations

import base64
import contextlib
import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cfsrepo.errors import RepositoryError
from cfsrepo.formats import splitstream
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.splitstream import Digest, SplitStream, SplitStreamWriter

# The stream of a manifest of 719 bytes as cfsctl 0.9.4 stored it in a SHA-512 repository.
CFSCTL_MANIFEST = base64.b64decode(
    """
    U3BsaXRTdHJlYW0AAAACDCAAAAAAAAAAcAAAAAAAAABwAAAAAAAAAHABAAAAAAAAcAEAAAAAAACwAQAAAAAAAHQCAAAA
    AAAAhQIAAAAAAACwAQAAAAAAAHQCAAAAAAAAb2NpbWFuaWbPAgAAAAAAABG4isJTCZN+fXQBhoLK6L6F0p7s2YPGwrzn
    EWdCyENxiDgHJY0n7FXCnvCPFxX338CQFUesV4GBFIENvdC5GgMuz7Jq9si3jNo6ZPY16Hw8IgFWBPOpN4aqKltSsOvc
    RPhZFQhViXG5rnVgsv4iILBT1N1/YL6dyOoWp66YXxFIhGpn9eqWiHqv8fGGrsKBG8MDFvdMNm87d1jffrNqHaOsb4m1
    DmeFPJa3t8Iqket+4PHpFMnymWR3Ayrs2iMcIeJ275nVc2XqS8J/t7iVWNkQ5IM3TXPkiozdDOkT7WDpRRmsrxTn2niT
    aNoW3qb4WJXwWLvnEyHAKfbq/vNKft1oR/vVN/sTouQGfko4qfUWsb7+83PSZ2ungNk6gx2FbuRkUi245wuikJM0yv4O
    +20/Tbe0wwek+fNBseoslzQOKLUv/QBY3QUAdtErE6CXdIDsmq9p9j/YFEXJ0v+HsQEoACUAJABuepwShqEkHHkfMzvm
    p7VvvNbUj8twkYlLG40EWAUdOAgQIPgCAw6IbYuKPyH/TueFF4MJrV7wxs34bqJkW1HxsdBFdEckACEObSbQBdPvfXWi
    8/3Ohe0hKkOqwraIS50Q+VmNDn2EKtdp8wMDgLITaQBvWUw4uLZN/oplHTZSPy6ObIW2Q4YsuX46/Mk2UUYr5Q+AawNE
    GQUCEEBqQii1L/0AWEEAAAAAAAAAAAAA
    """
)
ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def make(*chunks: bytes | tuple[bytes, int], **names: bytes) -> bytes:
    """A stream of inline chunks (bytes) and external ones ((digest, size))."""
    writer = SplitStreamWriter(Algorithm.SHA256, splitstream.OCI_LAYER)
    for chunk in chunks:
        if isinstance(chunk, tuple):
            writer.external(*chunk)
        else:
            writer.inline(chunk)
    for name, digest in names.items():
        writer.named_ref(name, digest)
    return writer.finish()


def joined(stream: SplitStream) -> list[bytes | Digest]:
    """The chunks with neighbouring inline pieces joined: the pieces' borders mean nothing."""
    result: list[bytes | Digest] = []
    for chunk in stream.chunks():
        assert chunk
        if result and not isinstance(chunk, Digest) and not isinstance(result[-1], Digest):
            result[-1] += chunk
        else:
            result.append(chunk)
    return result


def test_reads_what_cfsctl_wrote_and_writes_the_same() -> None:
    stream = SplitStream.parse(CFSCTL_MANIFEST)
    assert stream.algorithm is Algorithm.SHA512
    assert stream.content_type == splitstream.OCI_MANIFEST
    (manifest,) = stream.chunks()
    assert isinstance(manifest, Digest)
    assert stream.object_refs == [manifest]
    assert [name.partition(":")[0] for name in sorted(stream.named_refs)] == [
        "config",
        "sha256",
        "sha256",
        "sha256",
    ]
    writer = SplitStreamWriter(stream.algorithm, stream.content_type)
    for name, digest in stream.named_refs.items():
        writer.named_ref(name, digest)
    writer.external(manifest, stream.size)
    assert writer.finish() == CFSCTL_MANIFEST


def test_empty_stream() -> None:
    stream = SplitStream.parse(make())
    assert list(stream.chunks()) == []
    assert stream.size == 0
    assert stream.object_refs == []
    assert stream.named_refs == {}


def test_chunks_references_and_size() -> None:
    data = make(b"a", b"", b"b", (TWO, 10), (ONE, 20), b"c", (TWO, 10), layer=ONE, config=ONE)
    stream = SplitStream.parse(data)
    assert joined(stream) == [b"ab", TWO, ONE, b"c", TWO]
    assert stream.object_refs == [TWO, ONE]
    assert stream.size == 43
    assert stream.named_refs == {"layer": ONE, "config": ONE}
    assert joined(stream) == joined(stream), "a stream can be walked twice"


def test_kept_objects_are_references_but_no_content() -> None:
    writer = SplitStreamWriter(Algorithm.SHA256, splitstream.OCI_LAYER)
    writer.inline(b"x")
    assert writer.keep(ONE) == 0
    stream = SplitStream.parse(writer.finish())
    assert list(stream.chunks()) == [b"x"]
    assert stream.object_refs == [ONE]
    assert stream.size == 1


def test_end_chunk_bounds_a_long_run_of_inline_data() -> None:
    writer = SplitStreamWriter(Algorithm.SHA256, splitstream.OCI_LAYER)
    writer.inline(b"one")
    assert writer.pending == 3
    writer.end_chunk()
    assert writer.pending == 0
    writer.end_chunk()
    writer.inline(b"two")
    stream = SplitStream.parse(writer.finish())
    assert b"".join(stream.chunks()) == b"onetwo"
    assert stream.size == 6


def test_finish_to_gives_the_same_in_pieces() -> None:
    def make_writer() -> SplitStreamWriter:
        writer = SplitStreamWriter(Algorithm.SHA256, splitstream.OCI_LAYER)
        source = random.Random(1)
        for number in range(100_000):
            writer.external(number.to_bytes(32, "big"), 100)
            if number % 500 == 0:
                writer.inline(source.randbytes(60_000))
        return writer

    pieces: list[bytes] = []
    make_writer().finish_to(pieces.append)
    assert max(len(piece) for piece in pieces) <= 1 << 20
    assert b"".join(pieces) == make_writer().finish()


def test_big_inline_chunk_comes_in_bounded_pieces() -> None:
    content = bytes(range(256)) * 20_000
    stream = SplitStream.parse(make(content, (ONE, 1)))
    pieces = list(stream.chunks())
    assert b"".join(pieces[:-1]) == content
    assert max(len(piece) for piece in pieces) <= 1 << 20
    assert isinstance(pieces[-1], Digest)


def test_the_layout_of_early_composefs_rs_is_read() -> None:
    data = make(b"text", (ONE, 5), name=TWO)
    magic, version, flags, algorithm, block, start, end = struct.unpack_from("<11sBHBBQQ", data)
    old = struct.pack("<QQH11sBBB", start, end, flags, magic, version, algorithm, block)
    stream = SplitStream.parse(old + data[32:])
    assert joined(stream) == [b"text", ONE]
    assert stream.named_refs == {"name": TWO}


def test_longer_info_section_of_a_later_version_is_read() -> None:
    data = bytearray(make(b"text"))
    info = data[32:112] + b"what later versions know"
    struct.pack_into("<QQ", data, 16, len(data), len(data) + len(info))
    assert joined(SplitStream.parse(bytes(data) + info)) == [b"text"]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=100),
            st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**40)),
        ),
        max_size=30,
    ),
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
        st.binary(min_size=32, max_size=32),
        max_size=10,
    ),
)
def test_round_trip(chunks: list[bytes | tuple[bytes, int]], names: dict[str, bytes]) -> None:
    data = make(*chunks, **names)
    stream = SplitStream.parse(data)
    wanted: list[bytes] = []
    inline = True
    for chunk in chunks:
        if isinstance(chunk, tuple):
            wanted.append(chunk[0])
            inline = False
        elif chunk:
            if wanted and inline:
                wanted[-1] += chunk
            else:
                wanted.append(chunk)
            inline = True
    assert joined(stream) == wanted
    assert stream.named_refs == names


@given(st.data())
def test_damage_gives_an_error_or_other_content_but_never_a_crash(data: st.DataObject) -> None:
    good = make(b"inline " * 40, (ONE, 10), b"more", (TWO, 20), layer=ONE)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    del bad[data.draw(st.integers(0, len(bad))) :]
    with contextlib.suppress(RepositoryError):
        for chunk in SplitStream.parse(bytes(bad)).chunks():
            assert len(chunk) <= 1 << 20


def with_stream(raw: bytes) -> bytes:
    """A stream whose chunk section says `raw`."""
    data = bytearray(make((ONE, 1)))
    section = zstandard.ZstdCompressor().compress(raw)
    struct.pack_into("<QQ", data, 32 + 32, len(data), len(data) + len(section))
    return bytes(data) + section


def with_references(section: int, size: int) -> bytes:
    """A stream whose array of references to streams (0) or objects (1) has `size` bytes."""
    data = bytearray(make())
    struct.pack_into("<QQ", data, 32 + 16 * section, len(data), len(data) + size)
    return bytes(data) + bytes(size)


def with_names(raw: bytes) -> bytes:
    data = bytearray(make(name=ONE))
    section = zstandard.ZstdCompressor().compress(raw)
    struct.pack_into("<QQ", data, 32 + 48, len(data), len(data) + len(section))
    return bytes(data) + section


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shorter than its header"),
        (b"x" * 200, "wrong magic"),
        (make()[:11] + b"\x01" + make()[12:], "version 1, not 0"),
        (make()[:14] + b"\x09" + make()[15:], "unknown fs-verity hash algorithm 9"),
        (make()[:15] + b"\x10" + make()[16:], "block size 2^16, not 2^12"),
        (make()[:100], "section 32..112 of 100 bytes"),
        (make()[:24] + b"\x21" + make()[25:], "short info section"),
        (with_references(0, 33), "odd size of a reference array"),
        (with_references(1, 33), "odd size of a reference array"),
        (with_stream(struct.pack("<q", 1)), "object 1 of 1"),
        (with_stream(b"1234"), "cut within a chunk header"),
        (with_stream(struct.pack("<q", -5) + b"1234"), "cut within an inline chunk"),
        (with_stream(struct.pack("<q", -(2**63)) + b"1"), "cut within an inline chunk"),
        (with_names(b"0:name"), "no end of the last one"),
        (with_names(b"1:name\0"), "no such stream"),
        (with_names(b"-1:name\0"), "no such stream"),
        (with_names(b"name\0"), "no such stream"),
        (with_names(b"0:\xff\0"), "a name is not UTF-8"),
        (with_names(bytes(17 << 20)), "named references without end"),
    ],
)
def test_refusals(data: bytes, reason: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        list(SplitStream.parse(data, "oci-layer-x").chunks())
    assert reason in str(caught.value)
    assert str(caught.value).startswith("oci-layer-x: damaged split stream: ")


def test_a_name_with_nul_cannot_be_written() -> None:
    writer = SplitStreamWriter(Algorithm.SHA256, 0)
    with pytest.raises(ValueError, match="NUL"):
        writer.named_ref("a\0b", ONE)
