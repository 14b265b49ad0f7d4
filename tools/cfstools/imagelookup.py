"""The image that a command works on: one of the repository, or an image file with its objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images import names
from cfsrepo.images.location import ImageLocation, map_file
from cfstools.options import Arguments

__all__ = ["ImageLocation", "find", "opened"]


def find(args: Arguments) -> ImageLocation:
    """The image that `args` name. Raises `NotFoundError`, `RepositoryError`."""
    if args.objects is not None:
        return ImageLocation(
            args.image, os.path.abspath(args.image), os.path.abspath(args.objects), None, None
        )
    from cfstools.context import open_repository

    with open_repository(args) as repository:
        found = names.resolve(repository, args.image)
        path = os.path.abspath(repository.path)
        return ImageLocation(
            found.name or found.image_id,
            os.path.join(path, "images", found.image_id),
            os.path.join(path, "objects"),
            found.image_id,
            path,
        )


@contextmanager
def opened(source: ImageLocation) -> Iterator[ErofsImage]:
    """The image of `source`, mapped."""
    with map_file(source.image_file) as data:
        yield ErofsImage(data, source.name)
