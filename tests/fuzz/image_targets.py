"""Fuzz targets for dumps and images: each against the other."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable

from cfsrepo.errors import InputError
from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.dumpwriter import write_dump
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.images.dump import dump_image
from cfsrepo.images.load import load_tree


def collected(write: Callable[[Callable[[bytes], object]], None]) -> bytes:
    """All the pieces that `write` gives out."""
    parts: list[bytes] = []
    write(parts.append)
    return b"".join(parts)


def check_dump(data: bytes) -> None:
    """A dump: read; then its image must give the very dump that the tree gives."""
    try:
        root = read_dump(io.BytesIO(data), "fuzz")
        image = collected(lambda out: write_image(root, out))
    except InputError:
        return
    dump = collected(lambda out: write_dump(root, out))
    assert collected(lambda out: dump_image(ErofsImage(image), out)) == dump
    again = collected(lambda out: write_image(load_tree(ErofsImage(image)), out))
    try:
        reread = read_dump(io.BytesIO(dump), "fuzz")
    except InputError as error:
        if "of text" in str(error):  # xattrs can be longer escaped than a line may have
            return
        raise AssertionError("the canonical dump is refused") from error
    assert collected(lambda out: write_image(reread, out)) == again


def check_image(data: bytes) -> None:
    """An image: whatever can be asked of it, and its tree as an image again."""
    try:
        image = ErofsImage(data)
        walk = ImageWalk(image)
        for entry in walk.entries():
            look_at(image, entry.info.nid, entry.info.mode)
            walk.node(entry.info, again=entry.first is not None)
        dump_image(image, len)
        tree = load_tree(image)
        again = collected(lambda out: write_image(tree, out))
    except InputError:
        return
    ErofsImage(again)


def look_at(image: ErofsImage, nid: int, mode: int) -> None:
    """Ask all about an inode; damage of one thing must not hide the next from us."""
    questions: list[Callable[[], object]] = [
        lambda: image.raw_xattrs(nid),
        lambda: image.xattrs(nid),
        lambda: image.backing(nid),
    ]
    if stat.S_ISDIR(mode):
        questions.append(lambda: [image.lookup(nid, name) for _, name, *_ in image.readdir(nid)])
        questions.append(lambda: image.lookup(nid, b"a"))
    elif stat.S_ISLNK(mode):
        questions.append(lambda: image.readlink(nid))
    elif stat.S_ISREG(mode):
        questions.append(lambda: image.is_sparse(nid))
    for question in questions:
        try:
            question()
        except InputError:
            continue
