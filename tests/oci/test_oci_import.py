"""Pulls into a repository: what appears."""

from __future__ import annotations

import gzip as gzip_module
import os
from collections.abc import Callable
from typing import Any

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from cfsrepo.images import names
from cfsrepo.oci.documents import LAYER_TYPES
from cfsrepo.oci.importer import PulledImage, pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import (
    LayoutBuilder,
    archive,
    base,
    gzip,
    member,
    sha256,
    zstd,
)
from tests.oci.pull_helpers import BIG, GOOD, content, read, temporary_objects, visible


@pytest.mark.parametrize("count", [1, 3])
def test_what_a_pull_makes(count: int, repo: Repository, builder: LayoutBuilder) -> None:
    """One layer is imported in this process, several in processes of their own."""
    layers = [GOOD, archive(member(b"two", b"2" * 100)), archive(member(b"three", b"3"))][:count]
    entry = builder.image(*layers)
    found = pull(repo, builder.source(), "name")
    assert found.layers == found.new_layers == count
    assert found.manifest_digest == entry["digest"]
    assert repo.tags() == {"name": "oci-manifest-" + entry["digest"]}
    assert repo.images() == {found.image_id: bytes.fromhex(found.image_id)}

    manifest = repo.open_stream("oci-manifest-" + entry["digest"], OCI_MANIFEST)
    config = repo.open_stream("oci-config-" + found.config_digest, OCI_CONFIG)
    assert content(repo, manifest) == read(builder.blob_path(entry["digest"]))
    assert content(repo, config) == read(builder.blob_path(found.config_digest))
    diff_ids = [sha256(layer) for layer in layers]
    assert set(manifest.named_refs) == {"config:" + found.config_digest, *diff_ids}
    assert set(config.named_refs) == {"composefs.image.v1", *diff_ids}
    assert config.named_refs["composefs.image.v1"].hex() == found.image_id
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        assert content(repo, repo.open_stream("oci-layer-" + diff_id, OCI_LAYER)) == layer
    assert names.resolve(repo, "name").image_id == found.image_id
    assert temporary_objects(repo) == []


def test_what_is_inline_and_what_an_object(repo: Repository, builder: LayoutBuilder) -> None:
    files = {size: os.urandom(size) for size in (1, 63, 64, 65, 4096)}
    layer = base(*(member(b"%d" % size, data) for size, data in files.items()))
    builder.image(layer)
    pull(repo, builder.source(), "name")
    stream = repo.open_stream("oci-layer-" + sha256(layer))
    stored = [repo.objects.read(digest) for digest in stream.object_refs]
    assert stored == [files[65], files[4096]]


def test_pulled_again(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD, archive(member(b"two", b"2")))
    first = pull(repo, builder.source(), "name")
    before = visible(repo)
    again = pull(repo, builder.source(), "name")
    assert (again.image_id, again.new_layers) == (first.image_id, 0)
    assert visible(repo) == before


def test_known_layers_are_not_read(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD, ref="one")
    pull(repo, builder.source("one"), "one")
    upper = archive(member(b"two", b"2"))
    builder.image(GOOD, upper, ref="two")
    os.unlink(builder.blob_path(sha256(gzip(GOOD))))
    found = pull(repo, builder.source("two"), "two")
    assert (found.layers, found.new_layers) == (2, 1)


def test_a_layer_whose_object_is_lost_is_imported_again(
    repo: Repository, builder: LayoutBuilder
) -> None:
    builder.image(GOOD)
    first = pull(repo, builder.source(), "name")
    digest = repo.stream_id("oci-layer-" + sha256(GOOD))
    assert digest is not None
    os.unlink(f"{repo.path}/streams/../objects/{digest.hex()[:2]}/{digest.hex()[2:]}")
    again = pull(repo, builder.source(), "name")
    assert (again.image_id, again.new_layers) == (first.image_id, 1)


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_layer_that_is_cut_off_is_imported_again(
    size: int, repo: Repository, builder: LayoutBuilder
) -> None:
    """As a crash of the machine may leave it."""
    builder.image(GOOD)
    first = pull(repo, builder.source(), "name")
    digest = repo.stream_id("oci-layer-" + sha256(GOOD))
    assert digest is not None
    os.truncate(f"{repo.path}/objects/{digest.hex()[:2]}/{digest.hex()[2:]}", size)
    again = pull(repo, builder.source(), "name")
    assert (again.image_id, again.new_layers) == (first.image_id, 1)
    assert content(repo, repo.open_stream("oci-layer-" + sha256(GOOD))) == GOOD


def test_a_lost_object_comes_back(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD)
    pull(repo, builder.source(), "name")
    (digest,) = repo.open_stream("oci-layer-" + sha256(GOOD)).object_refs
    os.unlink(f"{repo.path}/objects/{digest.hex()[:2]}/{digest.hex()[2:]}")
    assert pull(repo, builder.source(), "name").new_layers == 1
    assert repo.objects.read(digest) == b"x" * 5000


@pytest.mark.parametrize("stored", [1, 100, 5000])
@pytest.mark.parametrize("size", [5000, 3 << 20])
def test_sparse_files(stored: int, size: int, repo: Repository, builder: LayoutBuilder) -> None:
    """The image has the whole file, and the layer keeps its object from collection."""
    data = os.urandom(stored)
    pax = {b"GNU.sparse.map": b"%d,%d" % (size - stored, stored), b"GNU.sparse.size": b"%d" % size}
    layer = base(member(b"f", data, pax=pax))
    builder.image(layer)
    found = pull(repo, builder.source(), "name")
    whole = fsverity.digest(bytes(size - stored) + data)
    assert whole in repo.open_stream("oci-layer-" + sha256(layer)).object_refs
    assert repo.objects.size(whole) == size
    with repo.open_image(found.image_id) as image:
        assert whole in image[:]
    assert content(repo, repo.open_stream("oci-layer-" + sha256(layer))) == layer


def test_small_sparse_files(repo: Repository, builder: LayoutBuilder) -> None:
    pax = {b"GNU.sparse.map": b"3,1,10,2", b"GNU.sparse.size": b"60"}
    builder.image(base(member(b"f", b"abc", pax=pax)))
    found = pull(repo, builder.source(), "name")
    with repo.open_image(found.image_id) as image:
        assert bytes(3) + b"a" + bytes(6) + b"bc" + bytes(48) in image[:]


def test_no_layers_at_all(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image()
    found = pull(repo, builder.source(), "name")
    assert (found.layers, found.new_layers) == (0, 0)


def test_one_layer_twice(repo: Repository, builder: LayoutBuilder) -> None:
    empty = archive()
    builder.image(GOOD, empty, empty)
    found = pull(repo, builder.source(), "name")
    assert (found.layers, found.new_layers) == (3, 2)


def test_default_name(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD, ref="v1")
    assert pull(repo, builder.source("v1")).name == "layout:v1"
    assert set(repo.tags()) == {"layout:v1"}


def test_all_xattrs(repo: Repository, builder: LayoutBuilder) -> None:
    pax = {b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.user.cfs.meta": b"forged"}
    builder.image(base(member(b"f", pax=pax)))

    texts: list[str] = []

    class Messages:
        def message(self, text: str) -> None:
            texts.append(text)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args: None

    messages: Any = Messages()
    plain = pull(repo, builder.source(), "name", progress=messages)
    assert any("user.cfs.*" in text for text in texts)
    everything = pull(repo, builder.source(), "name", xattrs=XattrMode.ALL)
    assert everything.image_id != plain.image_id
    # The name means what was pulled last.
    assert names.resolve(repo, "name").image_id == everything.image_id
    assert pull(repo, builder.source(), "name").image_id == plain.image_id
    assert names.resolve(repo, "name").image_id == plain.image_id


def test_long_runs_without_an_object(repo: Repository, builder: LayoutBuilder) -> None:
    """A split stream's inline data is cut where a reader can bear it."""
    layer = base(*(member(b"%05d" % number, b"i" * (number % 64)) for number in range(20_000)))
    builder.image(layer)
    first = pull(repo, builder.source(), "name")
    stream = repo.open_stream("oci-layer-" + sha256(layer))
    assert content(repo, stream) == layer
    assert pull(repo, builder.source(), "name").image_id == first.image_id


def test_progress_counts_the_blobs(repo: Repository, builder: LayoutBuilder) -> None:
    counts: dict[str, int] = {}
    ended = []

    class Counting:
        def start(self, task: str, total: int | None, unit: str = "B") -> None:
            counts[task] = -(total or 0)

        def advance(self, task: str, amount: int) -> None:
            counts[task] += amount

        def finish(self, task: str, note: str = "") -> None:
            ended.append(task)

        def message(self, text: str) -> None:
            raise AssertionError(text)

    builder.image(GOOD, BIG, architecture="amd64" if os.uname().machine == "x86_64" else "arm64")
    pull(repo, builder.source(), "name", progress=Counting())
    assert set(ended) == set(counts)
    assert len(counts) == 3
    assert {count for task, count in counts.items() if task.startswith("layer ")} == {0}


def test_every_layer_type_is_unpacked(repo: Repository, builder: LayoutBuilder) -> None:
    packers = {"none": bytes, "gzip": gzip_module.compress, "zstd": zstd}
    images: list[PulledImage] = []
    for number, (media_type, compression) in enumerate(sorted(LAYER_TYPES.items())):
        tar = base(member(b"f", b"%d" % number))
        layer = builder.blob(packers[compression.value](tar), media_type)
        builder.image(tar, layers=[layer], ref=f"i{number}")
        images.append(pull(repo, builder.source(f"i{number}"), f"i{number}"))
    assert len({image.image_id for image in images}) == len(LAYER_TYPES)
