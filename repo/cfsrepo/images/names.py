"""What a user may call an image, and what it means in a repository.

In this order; the first kind that has a match decides:

1. a tag, whole; a tag without its `:latest`; a name of an image file (`images/refs`); an image id;
   an OCI digest `sha256:HEX` of a manifest or a config, also with `@` before it
2. a unique prefix of any of these, an OCI digest also without its `sha256:`

Several names of one image do not make a prefix ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError
from cfsrepo.store.ocistreams import CONFIG_PREFIX, MANIFEST_PREFIX, config_image, manifest_config
from cfsrepo.store.repository import Repository

_SHOWN: Final = 4  # candidates in an error


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image that a name was resolved to."""

    image_id: str
    """fs-verity digest of the image file, in hex."""
    name: str
    """A name of it: a tag if it has one, else a reference, else the id."""
    manifest_digest: str | None = None
    """`sha256:HEX` of the OCI manifest; None for an image that came otherwise."""
    config_digest: str | None = None
    """`sha256:HEX` of the OCI config."""


def image_of_manifest(repository: Repository, content_id: str) -> ImageName | None:
    """The image of the manifest stream `content_id`; None for one without (an artifact)."""
    config = manifest_config(repository.open_stream(content_id))
    if config is None:
        return None
    config_digest, stream_digest = config
    stream = repository.read_stream(stream_digest, CONFIG_PREFIX + config_digest)
    # The version that this repository makes, else another one.
    image = config_image(stream, (repository.meta.erofs_default, 1, 2))
    if image is None:
        return None
    manifest_digest = content_id.removeprefix(MANIFEST_PREFIX)
    return ImageName(image.hex(), manifest_digest, manifest_digest, config_digest)


def list_images(repository: Repository) -> list[ImageName]:
    """Every image of the repository, one entry for each name, the nameless ones at the end.

    A manifest whose streams are damaged is left out; `cfs fsck` tells of it.
    """
    by_manifest: dict[str, ImageName] = {}
    for content_id in repository.streams():
        if content_id.startswith(MANIFEST_PREFIX):
            try:
                image = image_of_manifest(repository, content_id)
            except CfsError:
                continue
            if image is not None:
                by_manifest[content_id] = image
    found: list[ImageName] = []
    for tag, content_id in sorted(repository.tags().items()):
        if (image := by_manifest.get(content_id)) is not None:
            found.append(_named(image, tag))
    by_image = {image.image_id: image for image in by_manifest.values()}
    for name, image_id in sorted(repository.image_refs().items()):
        image = by_image.get(image_id, ImageName(image_id, image_id))
        found.append(_named(image, name))
    named = {image.image_id for image in found}
    for image_id in sorted(repository.images()):
        if image_id not in named:
            image = by_image.get(image_id, ImageName(image_id, image_id))
            found.append(_named(image, image_id))
    return found


def resolve(repository: Repository, name: str) -> ImageName:
    """The one image that `name` means; `NotFoundError` where there is none or more than one."""
    tagged, exact, prefixed = [], [], []
    wanted = name.removeprefix("@")
    for image in list_images(repository):
        digests = [d for d in (image.manifest_digest, image.config_digest) if d is not None]
        if image.name in (name, f"{name}:latest"):
            tagged.append(image)
        elif wanted in (image.image_id, *digests):
            exact.append(image)
        elif wanted and any(
            spelling.startswith(wanted)
            for spelling in (
                image.name,
                image.image_id,
                *digests,
                *(digest.partition(":")[2] for digest in digests),
            )
        ):
            prefixed.append(image)
    # A tag can be spelled like the beginning of another, even like a digest: it wins.
    whole = [image for image in tagged if image.name == name]
    for candidates in (whole, tagged, exact, prefixed):
        if len({image.image_id for image in candidates}) == 1:
            return candidates[0]
        if candidates:
            listed = sorted({f"{image.name} ({image.image_id[:12]})" for image in candidates})
            more = ", ..." if len(listed) > _SHOWN else ""
            raise NotFoundError(
                f"{name}: could be any of {', '.join(listed[:_SHOWN])}{more}",
                hint="give more of the name or the image id",
            )
    raise NotFoundError(f"{name}: no such image", hint="'cfs images' lists what there is")


def _named(image: ImageName, name: str) -> ImageName:
    return ImageName(image.image_id, name, image.manifest_digest, image.config_digest)
