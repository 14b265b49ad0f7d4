"""What a layer may cost: bytes in memory, bytes written, entries; and that holes stay holes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from cfsrepo.errors import LimitError
from cfsrepo.formats import fsverity
from cfsrepo.oci.decompress import CHUNK, decompress
from cfsrepo.oci.documents import Compression
from cfsrepo.oci.importer import pull
from cfsrepo.oci.limits import Limits
from cfsrepo.oci.unpack import unpack
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import LayoutBuilder, archive, base, gzip, member, sha256, symlink, zstd
from tests.oci.pull_helpers import GOOD, temporary_objects, visible
from tests.oci.test_oci_merge import merged

MIB = 1 << 20
GIB = 1 << 30


def sparse(name: bytes, size: int, data: bytes, offset: int) -> bytes:
    """A sparse file of `size` bytes that is all hole but for `data` at `offset`."""
    pax = {
        b"GNU.sparse.map": b"%d,%d" % (offset, len(data)),
        b"GNU.sparse.size": b"%d" % size,
        b"GNU.sparse.name": name,
    }
    return member(name, data, pax=pax)


LONG_LINKS = base(*(symlink(b"%d" % number, b"t" * 4095) for number in range(30_000)))
HOLES = base(*(sparse(b"%d" % number, 60 * GIB, b"x" * 600, 0) for number in range(10)))


@contextlib.contextmanager
def memory_growth_below(limit: int) -> Iterator[None]:
    """This process's memory must not grow by `limit` bytes at any time in the block."""

    def amount(field: str) -> int:
        with open("/proc/self/status", encoding="ascii") as file:
            (line,) = (line for line in file if line.startswith(field))
        return int(line.split()[1]) * 1024

    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak is what there is now
    before = amount("VmRSS:")
    yield
    assert amount("VmHWM:") - before < limit


REFUSED = {
    "long links": (LONG_LINKS, Limits(), "67108864 bytes of names, link targets"),
    "long names": (
        base(*(member(b"d%d/" % number + b"n" * 250) for number in range(10))),
        Limits(metadata=1000),
        "1000 bytes of names",
    ),
    "attributes": (
        base(member(b"x", pax={b"SCHILY.xattr.security.capability": b"v" * 5000})),
        Limits(metadata=5000),
        "5000 bytes of names, link targets and extended attributes",
    ),
    "holes": (HOLES, Limits(), "274877906944 bytes when unpacked"),
    "a file": (GOOD, Limits(size=4000), "4000 bytes when unpacked"),
    "entries": (
        base(*(member(b"%d" % number) for number in range(10))),
        Limits(entries=10),
        "10 entries",
    ),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("case", REFUSED)
def test_a_layer_over_a_limit(
    case: str, layers: int, repo: Repository, builder: LayoutBuilder
) -> None:
    """Alone it is imported in this process, beside another in one of its own."""
    layer, limits, message = REFUSED[case]
    builder.image(*[layer, archive()][:layers], packing="zstd")
    before = visible(repo)
    with pytest.raises(LimitError, match=f"more than {message}") as caught:
        pull(repo, builder.source(), "name", limits=limits)
    assert "--max-" in str(caught.value.hint)
    assert visible(repo) == before
    assert temporary_objects(repo) == []


@pytest.mark.parametrize("case", REFUSED)
def test_unpack_has_the_same_limits(case: str, tmp_path: object) -> None:
    layer, limits, message = REFUSED[case]
    path = f"{tmp_path}/layer"
    with open(path, "wb") as file:
        file.write(zstd(layer))
    with pytest.raises(LimitError, match=f"more than {message}"):
        unpack([path], f"{tmp_path}/tree", limits=limits)
    assert os.listdir(f"{tmp_path}/tree") == []


def test_layers_that_only_together_are_over_a_limit(
    repo: Repository, builder: LayoutBuilder
) -> None:
    layers = [base(member(b"%d" % number, os.urandom(3 * MIB))) for number in range(3)]
    builder.image(*layers)
    with pytest.raises(LimitError, match="bytes when unpacked"):
        pull(repo, builder.source(), "name", limits=Limits(size=8 * MIB))
    names = [archive(*(member(b"%d-%d" % (n, at)) for at in range(10))) for n in range(3)]
    for limits in (Limits(entries=25), Limits(metadata=80)):
        with pytest.raises(LimitError):
            merged(*names, limits=limits)
    merged(*names, limits=Limits(entries=30, metadata=90))


def test_directories_that_only_paths_name_are_entries_too() -> None:
    layer = archive(member(b"a/b/c/d"))
    merged(layer, limits=Limits(entries=4))
    with pytest.raises(LimitError, match="more than 3 entries"):
        merged(layer, limits=Limits(entries=3))


def test_long_links_cost_little(repo: Repository, builder: LayoutBuilder) -> None:
    """The layer, of 200 KiB, is refused before it is held in memory or stored."""
    builder.image(LONG_LINKS, packing="zstd")
    with memory_growth_below(64 * MIB), pytest.raises(LimitError):
        pull(repo, builder.source(), "name")
    stored = sum(
        os.lstat(os.path.join(parent, name)).st_blocks * 512
        for parent, _, files in os.walk(f"{repo.path}/objects")
        for name in files
    )
    assert stored < MIB


# -- sparse files ---------------------------------------------------------------------------------


def blocks(repo: Repository, digest: bytes) -> int:
    return os.stat(f"{repo.path}/objects/{object_path(digest)}").st_blocks * 512


def test_holes_are_not_written(repo: Repository, builder: LayoutBuilder) -> None:
    data = os.urandom(5000)
    size = 200 * MIB + 17
    builder.image(base(sparse(b"f", size, data, 100 * MIB + 1)))
    pull(repo, builder.source(), "name")
    whole = bytearray(size)
    whole[100 * MIB + 1 : 100 * MIB + 1 + len(data)] = data
    digest = fsverity.digest(whole)
    assert repo.objects.read(digest) == whole
    assert blocks(repo, digest) < 64 * 1024


def test_a_hole_of_sixty_gigabytes(repo: Repository, builder: LayoutBuilder) -> None:
    layer = base(sparse(b"f", 60 * GIB, b"x" * 600, 60 * GIB - 600))
    builder.image(layer)
    found = pull(repo, builder.source(), "name", limits=Limits(size=61 * GIB))
    (digest,) = (
        digest
        for digest in repo.open_stream("oci-layer-" + sha256(layer)).object_refs
        if repo.objects.size(digest) == 60 * GIB
    )
    assert blocks(repo, digest) < 64 * 1024
    with repo.open_image(found.image_id) as image:
        assert digest in image[:]


def test_a_second_pull_does_not_write_it_again(
    repo: Repository, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the image has to be made again."""
    lower, upper = base(sparse(b"f", 10 * MIB, b"x" * 600, 4096)), archive(member(b"n"))
    builder.image(lower, ref="one")
    builder.image(lower, upper, ref="two")
    pull(repo, builder.source("one"), "one")
    sizes = []
    with repo.objects.writer() as unused:
        kind = type(unused)
    commit = kind.commit

    def counted(writer: Any) -> bytes:
        sizes.append(writer.size)
        return commit(writer)

    monkeypatch.setattr(kind, "commit", counted)
    pull(repo, builder.source("two"), "two")
    assert sizes
    assert max(sizes) < MIB


# -- bombs ----------------------------------------------------------------------------------------


class Packed:
    """Packed bytes as a source of `decompress`."""

    name = "bomb"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, count: int, /) -> bytes:
        piece, self._data = self._data[:count], self._data[count:]
        return piece


def zstd_bomb(size: int) -> bytes:
    """One frame, whose every block is a run of zeros."""
    packer = zstandard.ZstdCompressor(level=19).compressobj(size=size)
    piece = bytes(MIB)
    parts = [packer.compress(piece) for _ in range(size // MIB)]
    return b"".join([*parts, packer.flush()])


@pytest.mark.parametrize("packing", [Compression.ZSTD, Compression.GZIP])
def test_a_read_is_bounded_whatever_a_layer_unpacks_to(packing: Compression) -> None:
    size = 512 * MIB
    packed = zstd_bomb(size) if packing is Compression.ZSTD else gzip(bytes(size))
    assert len(packed) < MIB
    found = 0
    with memory_growth_below(32 * MIB):  # a window of 8 MiB, and some chunks
        for chunk in decompress(Packed(packed), packing):
            assert len(chunk) <= CHUNK
            found += len(chunk)
    assert found == size
