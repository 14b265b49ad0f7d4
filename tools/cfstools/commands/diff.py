"""`cfs diff A B [PATH]`: what is different between two images or directories."""

from __future__ import annotations

import contextlib
import os
import stat

from cfsrepo.errors import EXIT_FOUND, EXIT_OK, NotFoundError, printable
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images import names
from cfsrepo.images.diff import Change, Difference, DirectoryTree, Entry, ImageTree, Tree, compare
from cfsrepo.store.repository import Repository
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.jsontext import listing

_SIGN = {Change.ADDED: "A", Change.REMOVED: "D", Change.CHANGED: "M"}


def run(args: Arguments) -> int:
    different = False
    with contextlib.ExitStack() as stack:
        repository: Repository | None = None
        trees: list[Tree] = []
        for name in (args.first, args.second):
            if _is_directory(name):
                trees.append(DirectoryTree(name))
                continue
            if repository is None:
                repository = stack.enter_context(open_repository(args))
            trees.append(_image_tree(repository, name, stack))
        algorithm = Algorithm.SHA256 if repository is None else repository.algorithm
        differences = compare(trees[0], trees[1], os.fsencode(args.path), algorithm)
        if args.quiet:
            return EXIT_OK if next(iter(differences), None) is None else EXIT_FOUND
        show = stack.enter_context(listing(args.json, _record, _line))
        for difference in differences:
            different = True
            show(difference)
    return EXIT_FOUND if different else EXIT_OK


def _is_directory(name: str) -> bool:
    """A path is told from a name by its beginning or end: tags may have slashes inside."""
    return name.startswith(("/", "./", "../")) or name.endswith("/") or name in (".", "..")


def _image_tree(repository: Repository, name: str, stack: contextlib.ExitStack) -> ImageTree:
    try:
        image = names.resolve(repository, name)
    except NotFoundError as error:
        if os.path.isdir(name):
            raise NotFoundError(str(error), hint=f"the directory is called ./{name}") from None
        raise
    data = stack.enter_context(repository.open_image(image.image_id))
    return ImageTree(ErofsImage(data, name))


def _line(difference: Difference) -> str:
    sign, path = _SIGN[difference.change], printable(difference.path)
    if difference.change is not Change.CHANGED:
        entry = difference.after or difference.before
        slash = "/" if entry is not None and stat.S_ISDIR(entry.mode) and path != "/" else ""
        return f"{sign} {path}{slash}"
    before, after = difference.before, difference.after
    assert before is not None
    assert after is not None
    return f"{sign} {path}: {', '.join(_what(word, before, after) for word in difference.what)}"


def _what(word: str, before: Entry, after: Entry) -> str:
    """A word with both values, where they are short."""
    match word:
        case "mode":
            return f"mode {before.mode & 0o7777:04o} -> {after.mode & 0o7777:04o}"
        case "owner":
            return f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}"
        case "content" if before.size != after.size:
            return f"content ({before.size} -> {after.size} bytes)"
        case "xattr":
            names = [
                key
                for key in sorted({*before.xattrs, *after.xattrs})
                if before.xattrs.get(key) != after.xattrs.get(key)
            ]
            return f"xattr {' '.join(printable(name) for name in names)}"
    return word


def _record(difference: Difference) -> dict[str, object]:
    return {
        "change": str(difference.change),
        "path": os.fsdecode(difference.path),
        "what": list(difference.what),
        "before": _entry(difference.before),
        "after": _entry(difference.after),
    }


def _entry(entry: Entry | None) -> dict[str, object] | None:
    if entry is None:
        return None
    record: dict[str, object] = {
        "mode": f"{entry.mode:06o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": f"{entry.mtime[0]}.{entry.mtime[1]:09}",
        "xattrs": {os.fsdecode(name): value.hex() for name, value in entry.xattrs.items()},
    }
    if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
        record["device"] = [os.major(entry.rdev), os.minor(entry.rdev)]
    return record
