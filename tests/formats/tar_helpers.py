"""Archives read in chunks of a chosen size."""

from __future__ import annotations

from collections.abc import Iterator

from cfsrepo.errors import InputError
from cfsrepo.formats.tar.reader import Member
from cfsrepo.formats.tar.stream import TarStream
from tests.oci.oci_builder import (
    archive,
)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in chunks."""
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, size: int = 1 << 20) -> list[tuple[Member, bytes]]:
    stream = TarStream(cut(data, size), "test")
    return [(found, b"".join(stream.read_data())) for found in stream]


def read_or_error(data: bytes, size: int) -> list[tuple[Member, bytes]] | InputError:
    try:
        return read(data, size)
    except InputError as error:
        return error


def only(data: bytes) -> Member:
    ((found, _),) = read(archive(data))
    return found


def expanded(found: Member, stored: bytes) -> bytes:
    """The file that a sparse member is."""
    assert found.sparse is not None
    data = bytearray(found.size)
    at = 0
    for offset, length in found.sparse:
        data[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(data)
