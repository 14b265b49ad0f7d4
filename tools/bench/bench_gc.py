"""Collecting in a repository of ten images and 200,000 objects, and checking it, beside cfsctl."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence

from measure import Contender, Row, compare, program, scratch_directory

from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, SplitStreamWriter
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.images.make import Maker, make_image
from cfsrepo.store import ocistreams
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository

SUBJECT = "gc"
DESCRIPTION = "mark, collect and check 10 images with 200,000 objects"
WALL_TARGET = 1.0

_IMAGES = 10
_SHARED = 11_000  # objects that all images have
_OWN = 18_900  # objects of each image


def run(rounds: int) -> list[Row]:
    """The rows of this subject."""
    cfsctl = program("cfsctl")
    with scratch_directory("bench-gc") as scratch:
        template, copy = os.path.join(scratch, "template"), os.path.join(scratch, "copy")
        _build(template)
        cfs = [sys.executable, "-m", "cfstools", "--repo"]
        other = [cfsctl, "--repo"]

        def as_it_is(*command: str) -> Sequence[str]:
            return command

        def with_garbage(*command: str) -> Sequence[str]:
            """On a copy in which one image lost its name."""
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(template, copy, symlinks=True, copy_function=os.link)
            with Repository.open(copy) as repository:
                repository.untag("image0")
            os.sync()
            return command

        return [
            *compare(
                SUBJECT,
                "dry run: mark and count",
                Contender("cfs", lambda: as_it_is(*cfs, template, "gc", "-n")),
                Contender("cfsctl", lambda: as_it_is(*other, template, "gc", "-n")),
                rounds,
                WALL_TARGET,
            ),
            *compare(
                SUBJECT,
                "collect one image of ten",
                Contender("cfs", lambda: with_garbage(*cfs, copy, "gc")),
                Contender("cfsctl", lambda: with_garbage(*other, copy, "gc")),
                rounds,
                WALL_TARGET,
            ),
            *compare(
                SUBJECT,
                "fsck",
                Contender("cfs", lambda: as_it_is(*cfs, template, "fsck")),
                Contender("cfsctl", lambda: as_it_is(*other, template, "fsck")),
                rounds,
                None,
            ),
        ]


def _build(path: str) -> None:
    """Ten images as pulls leave them, of small files."""
    with Repository.init(path) as repository:
        shared = [_store(repository, number) for number in range(_SHARED)]
        streams: dict[str, bytes] = {}
        images: list[bytes] = []
        manifests = []
        for number in range(_IMAGES):
            first = (number + 1) * 1_000_000
            own = [_store(repository, first + file) for file in range(_OWN)]
            manifests.append(_add_image(repository, number, [shared, own], streams, images))
        repository.publish(streams, images)
        for number, manifest in enumerate(manifests):
            repository.tag(f"image{number}", manifest)


def _content(number: int) -> bytes:
    return b"%d" % number * 20


def _store(repository: Repository, number: int) -> tuple[bytes, int]:
    data = _content(number)
    return repository.objects.put(data), len(data)


def _add_image(
    repository: Repository,
    number: int,
    layers: list[list[tuple[bytes, int]]],
    streams: dict[str, bytes],
    images: list[bytes],
) -> str:
    """Store an image; returns the content id of its manifest."""
    store = repository.objects
    root = directory()
    assert root.entries is not None
    layer_streams: dict[str, bytes] = {}
    for position, objects in enumerate(layers):
        entries: dict[bytes, Inode] = {}
        writer = SplitStreamWriter(repository.algorithm, OCI_LAYER)
        for digest, size in objects:
            writer.inline(digest.hex().encode() * 8)  # in place of a tar header
            writer.external(digest, size)
            entries[digest.hex().encode()] = Inode(
                0o100644, size=size, digest=digest, payload=object_path(digest).encode()
            )
        root.entries[b"layer%d" % position] = Inode(0o040755, entries=entries, nlink=2)
        diff_id = _oci_digest(b"layer %d of %d" % (position, number if position else 0))
        layer_streams[diff_id] = streams[ocistreams.LAYER_PREFIX + diff_id] = store.put(
            writer.finish()
        )
    image = store.put(make_image(root, maker=Maker.BUILTIN))
    images.append(image)

    config = json.dumps({"number": number, "rootfs": {"diff_ids": list(layer_streams)}}).encode()
    writer = SplitStreamWriter(repository.algorithm, OCI_CONFIG)
    for diff_id, digest in layer_streams.items():
        writer.named_ref(diff_id, digest)
    writer.named_ref(ocistreams.IMAGE_REFS[1], image)
    writer.external(store.put(config), len(config))
    config_stream = streams[ocistreams.CONFIG_PREFIX + _oci_digest(config)] = store.put(
        writer.finish()
    )

    manifest = json.dumps({"config": {"digest": _oci_digest(config)}}).encode()
    writer = SplitStreamWriter(repository.algorithm, OCI_MANIFEST)
    writer.named_ref(ocistreams.CONFIG_REF + _oci_digest(config), config_stream)
    for diff_id, digest in layer_streams.items():
        writer.named_ref(diff_id, digest)
    writer.external(store.put(manifest), len(manifest))
    content_id = ocistreams.MANIFEST_PREFIX + _oci_digest(manifest)
    streams[content_id] = store.put(writer.finish())
    return content_id


def _oci_digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
