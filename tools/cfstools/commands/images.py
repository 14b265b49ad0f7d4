"""`cfs images`: list the images of the repository, a line for each name."""

from __future__ import annotations

import sys

from cfsrepo.errors import CfsError
from cfsrepo.images import names
from cfsrepo.images.imageinfo import ImageInfo, image_info
from cfsrepo.images.names import DamagedName, ImageName
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.ages import dated
from cfstools.render.amounts import amount
from cfstools.render.jsontext import print_json
from cfstools.render.tables import print_table

_SHORT = 12  # hex digits of an id, of which any unique prefix will do


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        images, damaged = names.survey(repository)
        infos: list[tuple[ImageName, ImageInfo | None]] = []
        for image in images:
            try:
                infos.append((image, image_info(repository, image)))
            except CfsError as error:
                print(f"cfs: {image.name}: {error}", file=sys.stderr)
                infos.append((image, None))
    for found in damaged:
        print(f"cfs: {found.name}: {found.error}", file=sys.stderr)
    if args.json:
        records = [_record(image, info) for image, info in infos]
        print_json([*records, *map(_damaged_record, damaged)])
    elif args.quiet:
        for image_id in dict.fromkeys(image.image_id for image in images):
            print(image_id)
    else:
        print_table(
            ("NAME", "IMAGE ID", "PLATFORM", "CREATED", "LAYERS", "PACKED"),
            [*(_row(image, info) for image, info in infos), *map(_damaged_row, damaged)],
            right="    >>",
        )
    return 0


def _row(image: ImageName, info: ImageInfo | None) -> tuple[str, ...]:
    name = "-" if image.name in (image.image_id, image.manifest_digest) else image.name
    if info is None:
        return (name, image.image_id[:_SHORT], "damaged", "-", "-", "-")
    return (
        name,
        image.image_id[:_SHORT],
        info.platform or "-",
        dated(info.created),
        str(len(info.layers)),
        amount(info.packed_size),
    )


def _damaged_row(found: DamagedName) -> tuple[str, ...]:
    name = "-" if found.name == found.manifest_digest else found.name
    return (name, "-", "damaged", "-", "-", "-")


def _damaged_record(found: DamagedName) -> dict[str, object]:
    return {
        "name": None if found.name == found.manifest_digest else found.name,
        "image_id": None,
        "manifest_digest": found.manifest_digest,
        "config_digest": None,
        "damaged": True,
    }


def _record(image: ImageName, info: ImageInfo | None) -> dict[str, object]:
    named = image.name not in (image.image_id, image.manifest_digest)
    record: dict[str, object] = {
        "name": image.name if named else None,
        "image_id": image.image_id,
        "manifest_digest": image.manifest_digest,
        "config_digest": image.config_digest,
        "damaged": info is None,
    }
    if info is not None:
        record |= {
            "platform": info.platform or None,
            "created": info.created or None,
            "image_size": info.image_size,
            "packed_size": info.packed_size,
            "layers": [
                {
                    "digest": layer.digest,
                    "media_type": layer.media_type,
                    "size": layer.size,
                    "diff_id": layer.diff_id,
                }
                for layer in info.layers
            ],
        }
    return record
