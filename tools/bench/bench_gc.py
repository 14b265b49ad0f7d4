"""Collecting in a repository of ten images and 200,000 objects, and checking it, beside cfsctl.

A quick run has a tenth of the objects.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence

from measure import Contender, Row, Settings, compare, program, scratch_directory

from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, SplitStreamWriter
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.images.make import Maker, make_image
from cfsrepo.store import ocistreams
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository

SUBJECT = "gc"
DESCRIPTION = "mark, collect and check 10 images with 200,000 objects"
QUICK = True
WALL_TARGET = 1.0

_IMAGES = 10
_OBJECTS = (11_000, 18_900)  # that all images have, and of each image


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    cfsctl = program("cfsctl")
    with scratch_directory("bench-gc") as scratch:
        template, copy = os.path.join(scratch, "template"), os.path.join(scratch, "copy")
        build(template, _IMAGES, *(count // (10 if settings.quick else 1) for count in _OBJECTS))
        cfs = [sys.executable, "-m", "cfstools", "--repo"]
        other = [cfsctl, "--repo"]
        objects = os.path.join(template, "objects")

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

        read_all = f"find {shlex.quote(objects)} -type f -print0 | xargs -0 cat > /dev/null"
        listed = Contender("find", lambda: ["sh", "-c", f"find {shlex.quote(objects)} > /dev/null"])
        read = Contender("cat", lambda: ["sh", "-c", read_all])
        return [
            *compare(
                SUBJECT,
                "dry run: mark and count",
                Contender("cfs", lambda: as_it_is(*cfs, template, "gc", "-n")),
                Contender("cfsctl", lambda: as_it_is(*other, template, "gc", "-n")),
                settings,
                floor=listed,
                target=WALL_TARGET,
            ),
            *compare(
                SUBJECT,
                "collect one image of ten",
                Contender("cfs", lambda: with_garbage(*cfs, copy, "gc")),
                Contender("cfsctl", lambda: with_garbage(*other, copy, "gc")),
                settings,
                target=WALL_TARGET,
            ),
            *compare(
                SUBJECT,
                "fsck",
                Contender("cfs", lambda: as_it_is(*cfs, template, "fsck")),
                Contender("cfsctl", lambda: as_it_is(*other, template, "fsck")),
                settings,
                floor=read,
                target=WALL_TARGET,
            ),
        ]


def build(path: str, count: int, shared_objects: int, own_objects: int) -> None:
    """A repository of `count` images of small files, as pulls leave them: image0, image1, ..."""
    with Repository.init(path) as repository:
        shared = [_store(repository, number) for number in range(shared_objects)]
        streams: dict[str, bytes] = {}
        images: list[bytes] = []
        manifests = []
        for number in range(count):
            first = (number + 1) * 1_000_000
            own = [_store(repository, first + file) for file in range(own_objects)]
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
