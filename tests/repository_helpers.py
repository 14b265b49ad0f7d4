"""Small OCI images put into a repository by hand, without a pull."""

from __future__ import annotations

import hashlib
import json

from cfsrepo import names
from cfsrepo.names import ImageName
from cfsrepo.repository import Repository
from cfsrepo.splitstream import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, SplitStreamWriter


def oci_digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add_image(
    repo: Repository,
    tag: str | None,
    content: bytes = b"image",
    *,
    image_file: bytes | None = None,
    layers: list[list[bytes]] | None = None,
) -> ImageName:
    """An image with one stream for each of `layers`, lists of the objects' contents."""
    image_file = image_file or b"image file of " + content * 10
    image = repo.objects.put(image_file)
    streams: dict[str, bytes] = {}
    layer_digests: dict[str, bytes] = {}
    for objects in layers or [[content + b" object" * 20]]:
        writer = SplitStreamWriter(repo.algorithm, OCI_LAYER)
        hasher = hashlib.sha256()
        for data in objects:
            header = b"header of %d" % len(data)
            writer.inline(header)
            writer.external(repo.objects.put(data), len(data))
            hasher.update(header + data)
        diff_id = "sha256:" + hasher.hexdigest()
        digest = repo.objects.put(writer.finish())
        streams[names.LAYER_PREFIX + diff_id] = layer_digests[diff_id] = digest

    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "created": "2026-01-02T03:04:05Z",
            "rootfs": {"type": "layers", "diff_ids": list(layer_digests)},
            "note": content.decode("latin-1"),
        }
    ).encode()
    config_digest = oci_digest(config)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": config_digest, "size": len(config)},
            "layers": [
                {"mediaType": "tar", "digest": "sha256:" + "0" * 64, "size": 1000 + number}
                for number in range(len(layer_digests))
            ],
        }
    ).encode()
    manifest_digest = oci_digest(manifest)

    writer = SplitStreamWriter(repo.algorithm, OCI_CONFIG)
    for diff_id, digest in layer_digests.items():
        writer.named_ref(diff_id, digest)
    writer.named_ref(names.IMAGE_REFS[1], image)
    writer.external(repo.objects.put(config), len(config))
    config_stream = repo.objects.put(writer.finish())
    streams[names.CONFIG_PREFIX + config_digest] = config_stream

    writer = SplitStreamWriter(repo.algorithm, OCI_MANIFEST)
    writer.named_ref(names.CONFIG_REF + config_digest, config_stream)
    for diff_id, digest in layer_digests.items():
        writer.named_ref(diff_id, digest)
    writer.external(repo.objects.put(manifest), len(manifest))
    content_id = names.MANIFEST_PREFIX + manifest_digest
    streams[content_id] = repo.objects.put(writer.finish())

    repo.publish(streams, [image])
    if tag is not None:
        repo.tag(tag, content_id)
    return ImageName(image.hex(), tag or manifest_digest, manifest_digest, config_digest)
