"""`cfs inspect IMAGE`: what is known of an image."""

from __future__ import annotations

import json
import sys

from cfsrepo.errors import NotFoundError
from cfsrepo.images import names
from cfsrepo.images.imageinfo import ImageInfo, image_info
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.ages import age_of
from cfstools.render.amounts import amount
from cfstools.render.jsontext import print_json


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        info = image_info(repository, names.resolve(repository, args.image))
        tags = sorted(
            name
            for name, content_id in repository.tags().items()
            if content_id == f"oci-manifest-{info.image.manifest_digest}"
        )
        tags += sorted(
            name
            for name, image_id in repository.image_refs().items()
            if image_id == info.image.image_id
        )
    if args.manifest or args.config:
        document = info.manifest if args.manifest else info.config
        if not document:
            raise NotFoundError(f"{args.image}: an image file without OCI documents")
        sys.stdout.buffer.write(document)
        return 0
    if args.json:
        print_json(_record(info, tags))
        return 0
    for key, value in (
        ("Names", ", ".join(tags) or "-"),
        ("Image id", info.image.image_id),
        ("Manifest", info.image.manifest_digest or "-"),
        ("Config", info.image.config_digest or "-"),
        ("Platform", info.platform or "-"),
        ("Created", f"{info.created} ({ago})" if (ago := age_of(info.created)) else "-"),
        ("Image file", amount(info.image_size)),
        ("Packed", f"{amount(info.packed_size)} in {len(info.layers)} layers"),
    ):
        print(f"{key + ':':<12}{value}")
    for number, layer in enumerate(info.layers):
        title = "Layers:" if number == 0 else ""
        print(f"{title:<12}{layer.digest}  {amount(layer.size)}  {layer.media_type}")
    return 0


def _record(info: ImageInfo, tags: list[str]) -> dict[str, object]:
    return {
        "names": tags,
        "image_id": info.image.image_id,
        "image_size": info.image_size,
        "packed_size": info.packed_size,
        "manifest_digest": info.image.manifest_digest,
        "config_digest": info.image.config_digest,
        "platform": info.platform or None,
        "created": info.created or None,
        "manifest": json.loads(info.manifest) if info.manifest else None,
        "config": json.loads(info.config) if info.config else None,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "media_type": layer.media_type,
                "size": layer.size,
            }
            for layer in info.layers
        ],
    }
