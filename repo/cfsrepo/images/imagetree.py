"""The tree of an image of a repository, as a bare-user tree can hold it."""

from __future__ import annotations

from typing import Final

from cfsrepo.formats import metarecord
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import Inode, walk
from cfsrepo.images import names
from cfsrepo.images.load import load_tree
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store.repository import Repository

# What a maker of images adds to the directory of a whiteout.
_ADDED: Final = frozenset({(b"trusted.overlay.opaque", b"x"), (b"user.overlay.opaque", b"x")})


def load_image(repo: Repository, image: str, progress: Progress | None = None) -> Inode:
    """The tree of the image `image` of `repo`, as a bare-user tree can hold it.

    Without what the image's maker adds, and without `user.cfs.*` attributes, which `progress` is
    told.
    """
    found = names.resolve(repo, image)
    with repo.open_image(found.image_id) as data:
        root = load_tree(ErofsImage(data, found.name))
    for _, inode in walk(root):
        if (
            inode.entries
            and inode.xattrs
            and any(below.is_whiteout for below in inode.entries.values())
        ):
            kept = {key: value for key, value in inode.xattrs.items() if (key, value) not in _ADDED}
            inode.xattrs = kept or None
    if dropped := metarecord.drop_reserved_xattrs(root):
        (progress or NoProgress()).message(
            f"{image}: {dropped} extended attributes user.cfs.* of the image were left out"
        )
    return root
