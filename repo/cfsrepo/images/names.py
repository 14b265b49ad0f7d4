"""What a user may call an image, and what it means in a repository.

In this order; the first that there is decides, and it fails loudly where it is damaged:

1. a name, whole: a tag of an OCI image, or a name of an image file (`images/refs`); a name without
   its `:latest`
2. a digest, whole: an image id, or an OCI digest `sha256:HEX` of a manifest or a config, also with
   `@` before it
3. the beginning of the hex digits of a digest, if only one image has such a digest

A name has one meaning. Setting one takes it from an image that has it, whether that is a tag or a
name of an image file (`Repository.tag`, `Repository.name_image`), and `Repository.untag` removes
whatever has it. Another program can make a tag and a name of an image file that are spelled alike:
where they mean different images, the name is refused until it is set anew or removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError, RepositoryError
from cfsrepo.store.ocistreams import CONFIG_PREFIX, MANIFEST_PREFIX, config_image, manifest_config
from cfsrepo.store.repository import Repository

_SHOWN: Final = 4  # candidates in an error
_DIGEST: Final = re.compile(r"@?(sha(?:256|512):)?([0-9a-f]+)")


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


@dataclass(frozen=True, slots=True)
class DamagedName:
    """A name whose image cannot be told, since a stream that says it is damaged or missing."""

    name: str
    """A tag, or the digest of a manifest without one."""
    manifest_digest: str
    error: CfsError | OSError


def list_images(repository: Repository) -> list[ImageName]:
    """Every image of the repository, one entry for each name, the nameless ones at the end.

    What `survey` finds damaged is left out.
    """
    return survey(repository)[0]


def survey(repository: Repository) -> tuple[list[ImageName], list[DamagedName]]:
    """Every image, one entry for each name, the nameless ones at the end; and damaged names."""
    # What refers first, then what is referred to: a pull may come in between.
    tags, image_refs = repository.tags(), repository.image_refs()
    by_manifest: dict[str, ImageName] = {}
    errors: dict[str, CfsError | OSError] = {}
    for content_id in {*repository.streams(), *tags.values()}:
        if content_id.startswith(MANIFEST_PREFIX):
            try:
                image = image_of_manifest(repository, content_id)
            except (CfsError, OSError) as error:
                errors[content_id] = error
                continue
            if image is not None:
                by_manifest[content_id] = image
    found: list[ImageName] = []
    damaged: list[DamagedName] = []
    for tag, content_id in sorted(tags.items()):
        if content_id in by_manifest:
            found.append(_named(by_manifest[content_id], tag))
        elif content_id in errors:
            damaged.append(_damaged(tag, content_id, errors[content_id]))
    for content_id in sorted(errors.keys() - tags.values()):
        digest = content_id.removeprefix(MANIFEST_PREFIX)
        damaged.append(_damaged(digest, content_id, errors[content_id]))
    by_image = {image.image_id: image for image in by_manifest.values()}
    for name, image_id in sorted(image_refs.items()):
        image = by_image.get(image_id, ImageName(image_id, image_id))
        found.append(_named(image, name))
    named = {image.image_id for image in found}
    for image_id in sorted(repository.images()):
        if image_id not in named:
            image = by_image.get(image_id, ImageName(image_id, image_id))
            found.append(_named(image, image_id))
    return found, damaged


def resolve(repository: Repository, name: str) -> ImageName:
    """The one image that `name` means.

    `NotFoundError` where there is none or more than one, `RepositoryError` where it is damaged.
    """
    for spelling in (name, f"{name}:latest"):
        if (image := _by_name(repository, spelling)) is not None:
            return image
    match = _DIGEST.fullmatch(name)
    if match is not None:
        return _by_digest(repository, name, match[1] or "", match[2])
    raise _no_image(repository, name)


def _by_name(repository: Repository, name: str) -> ImageName | None:
    """The image with this whole name."""
    content_id, image_id = repository.tags().get(name), repository.image_refs().get(name)
    image = None
    if content_id is not None:
        try:
            image = image_of_manifest(repository, content_id)
        except (CfsError, OSError) as error:
            raise _damage(name, error) from error
        if image is None and image_id is None:
            raise NotFoundError(f"{name}: is an artifact, not an image")
    if image is not None and image_id not in (None, image.image_id):
        raise NotFoundError(
            f"{name}: is a tag of {image.image_id[:12]} and a name of {str(image_id)[:12]}",
            hint=f"'cfs tag IMAGE {name}' decides, 'cfs untag {name}' removes both",
        )
    if image is not None:
        return _named(image, name)
    return None if image_id is None else ImageName(image_id, name)


def _by_digest(repository: Repository, name: str, algorithm: str, digits: str) -> ImageName:
    """The image that has a digest which is, or begins with, these hex digits."""
    images, damaged = survey(repository)
    wanted = algorithm + digits
    whole: list[ImageName] = []
    begin: list[ImageName] = []
    for image in images:
        digests = [d for d in (image.manifest_digest, image.config_digest) if d is not None]
        if not algorithm:
            digests = [image.image_id, *map(_digits, digests)]
        if wanted in digests:
            whole.append(image)
        elif any(digest.startswith(wanted) for digest in digests):
            begin.append(image)
    unknown = [
        found
        for found in damaged
        if (algorithm + _digits(found.manifest_digest)).startswith(wanted)
    ]
    if len({image.image_id for image in whole}) == 1:
        return whole[0]
    candidates = whole or begin
    if len({image.image_id for image in candidates}) == 1 and not unknown:
        return candidates[0]
    if candidates:
        listed = sorted({f"{image.name} ({image.image_id[:12]})" for image in candidates})
        listed += [f"{found.name} (damaged)" for found in unknown]
        more = ", ..." if len(listed) > _SHOWN else ""
        raise NotFoundError(
            f"{name}: could be any of {', '.join(listed[:_SHOWN])}{more}",
            hint="give more of the digest, or a name",
        )
    if unknown:
        raise _damage(name, unknown[0].error) from unknown[0].error
    raise _no_image(repository, name)


def _digits(digest: str) -> str:
    return digest.partition(":")[2]


def _damage(name: str, error: CfsError | OSError) -> RepositoryError:
    return RepositoryError(
        f"{name}: the image is damaged: {error}",
        hint="'cfs fsck' tells what else is, 'cfs fsck --repair --from SOURCE' makes it good again",
    )


def _no_image(repository: Repository, name: str) -> NotFoundError:
    known = {*repository.tags(), *repository.image_refs()}
    similar = sorted(other for other in known if name and other.startswith(name))
    if similar:
        hint = f"did you mean {' or '.join(similar[:_SHOWN])}?"
    else:
        hint = "'cfs images' lists what there is"
    return NotFoundError(f"{name}: no such image", hint=hint)


def _damaged(name: str, content_id: str, error: CfsError | OSError) -> DamagedName:
    return DamagedName(name, content_id.removeprefix(MANIFEST_PREFIX), error)


def _named(image: ImageName, name: str) -> ImageName:
    return ImageName(image.image_id, name, image.manifest_digest, image.config_digest)
