"""Commit: an image of a bare-user tree.

`cfsrepo.worktree.scan` reads the tree. Its files are copied to the repository, by reflink where
the file system can; or they are adopted as objects, which ends editing them in place.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.images.imagetree import load_image
from cfsrepo.progress import Progress
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.scan import BareTree, scan_bare_tree


@dataclass(frozen=True, slots=True)
class CommittedImage:
    """What a commit made."""

    image_id: str
    files_without_record: int
    files_chmodded: int
    files_adopted: int = 0
    """Files of the tree that are objects now; they must not be edited in place any more."""

    @classmethod
    def of(cls, image_id: str, tree: BareTree) -> CommittedImage:
        """The image `image_id`, made of `tree`."""
        return cls(image_id, tree.files_without_record, tree.files_chmodded, tree.files_adopted)


def commit(
    repo: Repository,
    path: str,
    name: str | None = None,
    *,
    base: str | None = None,
    adopt: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> CommittedImage:
    """Make an image of the bare-user tree in the directory `path` and, with `name`, call it so.

    `base`: the image that files without a record take their metadata from. `adopt`: files of the
    tree become objects by hard links where that is safe (`cfsrepo.store.hardlink`); afterwards
    they must not be edited in place, only replaced or removed, even where the commit failed.
    Raises InputError for a record that is none or contradicts its file, or a file that changes
    meanwhile.
    """
    repo.check_writable()
    tree = scan_bare_tree(
        path,
        None if base is None else load_image(repo, base, progress),
        store=repo.objects,
        adopt=adopt,
        progress=progress,
        workers=workers,
    )
    version = repo.meta.erofs_default
    with repo.objects.writer() as out:
        write_image(tree.root, out.write, min_version=version, max_version=max(version, 1))
        digest = out.commit()
    repo.publish({}, [digest])
    if name is not None:
        repo.name_image(name, digest.hex())
    return CommittedImage.of(digest.hex(), tree)
