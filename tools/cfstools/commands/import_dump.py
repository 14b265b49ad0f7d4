"""`cfs import-dump FILE|- NAME`: an image of the repository from composefs-dump(5) text."""

from __future__ import annotations

import sys

from cfsrepo.errors import InputError, NotFoundError
from cfsrepo.formats import metarecord
from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.tree import Inode, walk
from cfsrepo.images.make import Maker, make_image
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    if args.file == "-":
        root = read_dump(sys.stdin.buffer, "-")
    else:
        with open(args.file, "rb") as stream:
            root = read_dump(stream, args.file)
    if dropped := metarecord.drop_reserved_xattrs(root):
        progress_for(args).message(
            f"{args.file}: {dropped} extended attributes user.cfs.* were left out"
        )
    with open_repository(args) as repository:
        repository.check_writable()
        _check_objects(repository, root, allow_missing=args.allow_missing)
        version = repository.meta.erofs_default
        image = make_image(
            root, maker=Maker(args.maker), min_version=version, max_version=max(version, 1)
        )
        image_id = repository.add_image(image, args.name)
    if args.json:
        print_json({"name": args.name, "image_id": image_id})
    else:
        print(image_id)
    return 0


def _check_objects(repository: Repository, root: Inode, *, allow_missing: bool) -> None:
    """Refuse a tree whose files this repository could not serve."""
    size = repository.algorithm.digest_size
    missing: dict[bytes, bytes] = {}
    known: set[bytes] = set()
    for path, inode in walk(root):
        if not inode.is_regular or inode.content is not None or not inode.size:
            continue
        digest, name = inode.digest, path.decode("utf-8", "surrogateescape")
        if digest is None or len(digest) != size:
            raise InputError(
                f"{name}: no digest of {repository.algorithm.value}, which the repository has"
            )
        if inode.payload != object_path(digest).encode():
            raise InputError(f"{name}: PAYLOAD is not the path of the object with its DIGEST")
        if digest not in known and digest not in missing:
            if repository.objects.has(digest):
                known.add(digest)
            else:
                missing[digest] = path
    if missing and not allow_missing:
        digest, path = next(iter(missing.items()))
        raise NotFoundError(
            f"{path.decode('utf-8', 'surrogateescape')}: its object {digest.hex()} is not in the "
            f"repository, nor are {len(missing) - 1} others",
            hint="store them first, or use --allow-missing",
        )
