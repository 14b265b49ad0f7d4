"""What was changed in a bare-user tree since its checkout, or against any image."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from cfsrepo.errors import InputError, NotFoundError, UsageError
from cfsrepo.images import names
from cfsrepo.images.diff import Change, Difference, InodeTree, compare
from cfsrepo.images.imagetree import load_image
from cfsrepo.progress import Progress
from cfsrepo.store.repository import Repository
from cfsrepo.worktree import checkoutmark
from cfsrepo.worktree.attributes import is_bare_user
from cfsrepo.worktree.checkout import select
from cfsrepo.worktree.checkoutmark import CheckoutMark
from cfsrepo.worktree.directorytree import Base, DirectoryTree


@dataclass(frozen=True, slots=True)
class Status:
    """How a tree differs from an image."""

    image_id: str
    differences: tuple[Difference, ...]
    """As `compare` tells them, but for directories of which only the mtime is new: what was added
    to them or removed says it better."""
    files_without_record: int
    """Files that a commit gives the metadata of the same path in the image, or else to 0:0."""
    files_chmodded: int
    """Files whose mode was changed on disk only, where a commit does not see it."""


def status(
    repo: Repository, path: str, base: str | None = None, *, progress: Progress | None = None
) -> Status:
    """Compare the bare-user tree in the directory `path` with the image `base`.

    None: the image it was checked out from, or the part of it that was. Raises InputError for what
    is no such tree, an unfinished one or a bad record; UsageError where no image is known;
    NotFoundError where it is not in `repo`; OSError.
    """
    if not is_bare_user(path):
        checkoutmark.check_finished(path)
        raise InputError(
            f"{path}: no bare-user tree", hint="'cfs checkout' and 'cfs unpack' make such trees"
        )
    mark = checkoutmark.read(path) or CheckoutMark(None)
    image = base or mark.image_id
    if image is None:
        raise UsageError(
            f"{path}: the tree does not say which image it was made of",
            hint="--base IMAGE compares it with an image",
        )
    try:
        image_id = names.resolve(repo, image).image_id
    except NotFoundError as error:
        if base is not None:
            raise
        raise NotFoundError(
            f"{path}: the image it was made of, {image}, is not in the repository",
            hint="--base IMAGE compares it with another, --repo DIR names another repository",
        ) from error
    root = load_image(repo, image_id, progress)
    if mark.paths and image_id == mark.image_id:
        root = select(root, mark.paths)
    with DirectoryTree(path, Base(root, image_id), bare_user=True) as tree:
        found = compare(InodeTree(root, image), tree, algorithm=repo.algorithm)
        differences = tuple(_telling(found))
        return Status(image_id, differences, tree.files_without_record, tree.files_chmodded)


def _telling(differences: Iterator[Difference]) -> Iterator[Difference]:
    for difference in differences:
        after = difference.after
        directory = after is not None and stat.S_ISDIR(after.mode)
        only_mtime = difference.change is Change.CHANGED and difference.what == ("mtime",)
        if not (directory and only_mtime):
            yield difference
