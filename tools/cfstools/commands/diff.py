"""`cfs diff A B [PATH]`: what is different between two images or directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from cfsrepo.errors import EXIT_FOUND, EXIT_OK, NotFoundError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images import names
from cfsrepo.images.diff import ImageTree, InodeTree, Tree, compare
from cfsrepo.images.imagetree import load_image
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.attributes import is_bare_user
from cfsrepo.worktree.directorytree import Base, DirectoryTree
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.differences import difference_line, difference_record
from cfstools.render.jsontext import listing


def run(args: Arguments) -> int:
    different = False
    with contextlib.ExitStack() as stack:
        sides = (args.first, args.second)
        repository: Repository | None = None
        if not all(map(_is_directory, sides)):
            repository = stack.enter_context(open_repository(args))
        trees = _open(sides, repository, stack)
        algorithm = Algorithm.SHA256 if repository is None else repository.algorithm
        differences = compare(trees[0], trees[1], os.fsencode(args.path), algorithm)
        if args.quiet:
            return EXIT_OK if next(iter(differences), None) is None else EXIT_FOUND
        show = stack.enter_context(listing(args.json, difference_record, difference_line))
        for difference in differences:
            different = True
            show(difference)
    return EXIT_FOUND if different else EXIT_OK


def _is_directory(name: str) -> bool:
    """A path is told from a name by its beginning or end: tags may have slashes inside."""
    return name.startswith(("/", "./", "../")) or name.endswith("/") or name in (".", "..")


def _open(
    sides: Sequence[str], repository: Repository | None, stack: contextlib.ExitStack
) -> list[Tree]:
    """The two trees. An image beside a bare-user tree is loaded: it says what the tree's files
    without a record are, and all of it is compared anyway."""
    bare_user = [_is_directory(name) and is_bare_user(name) for name in sides]
    base: Base | None = None
    trees: dict[str, Tree] = {}
    for name in sorted(sides, key=_is_directory):
        if not _is_directory(name):
            assert repository is not None
            image_id = _resolve(repository, name)
            if any(bare_user):
                base = Base(load_image(repository, image_id), image_id)
                trees[name] = InodeTree(base.root, name)
            else:
                data = stack.enter_context(repository.open_image(image_id))
                trees[name] = ImageTree(ErofsImage(data, name))
        else:
            tree = DirectoryTree(name, base, bare_user=is_bare_user(name))
            trees[name] = stack.enter_context(tree)
    return [trees[name] for name in sides]


def _resolve(repository: Repository, name: str) -> str:
    """The id of the image `name`."""
    try:
        return names.resolve(repository, name).image_id
    except NotFoundError as error:
        if os.path.isdir(name):
            raise NotFoundError(str(error), hint=f"the directory is called ./{name}") from None
        raise
