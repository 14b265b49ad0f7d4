"""Where the image to be mounted or looked into is."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

from cfsrepo.errors import InputError, NotFoundError
from cfsrepo.store.merkle import DIRECTORY


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """An image file and the directory of its objects.

    Plain values: no descriptor, so that a daemon can be handed it.
    """

    name: str  # as the user calls it
    image_file: str
    object_dir: str
    image_id: str | None  # hex; None for an image file outside of a repository
    repository: str | None

    @property
    def merkle_dir(self) -> str | None:
        """Where the trees of large objects are; None outside of a repository."""
        return None if self.repository is None else os.path.join(self.repository, DIRECTORY)


def map_file(path: str) -> mmap.mmap:
    """The file at `path` as read-only memory; a context manager."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InputError(f"{path}: an empty file, not an image")
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such image file") from None
