"""An image file as the tree that it was made from."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from cfsrepo.formats.erofs.imagewalk import ImageWalk, Node
from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo
from cfsrepo.formats.tree import Inode, paused_gc


@contextmanager
def open_image(path: str) -> Iterator[ErofsImage]:
    """The image file `path`, mapped for the length of a `with` block (read, where it is a pipe).

    Raises InputError for what is no image of composefs.
    """
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        if stat.S_ISREG(info.st_mode) and info.st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield ErofsImage(data, path)
        else:
            yield ErofsImage(file.read(), path)


def load_tree(image: ErofsImage) -> Inode:
    """The tree that `image` was made from.

    Sizes of directories are those of the image. Raises InputError where the image is damaged.
    """
    with paused_gc():
        walk = ImageWalk(image)
        above: list[tuple[bytes, dict[bytes, Inode]]] = []  # directories on the way to the entry
        linked: dict[int, Inode] = {}  # inodes that may have several names, by nid
        root: Inode | None = None
        for path, info, first in walk.entries():
            parent, _, name = path.rpartition(b"/")
            while above and above[-1][0] != parent:
                above.pop()
            if first is None:
                inode = _inode(info, walk.node(info))
                if info.nlink != 1:
                    linked[info.nid] = inode
            else:
                known = linked.get(info.nid)
                if known is None:  # its link count is wrong
                    assert root is not None
                    known = linked[info.nid] = _at(root, first)
                inode = known
            if above:
                above[-1][1][name] = inode
            else:
                root = inode
            if stat.S_ISDIR(inode.mode):
                inode.entries = {}
                above.append((path, inode.entries))
        assert root is not None
        return root


def _inode(info: InodeInfo, node: Node) -> Inode:
    inode = Inode(node.mode)
    inode.uid, inode.gid, inode.rdev = info.uid, info.gid, info.rdev
    inode.mtime_sec, inode.mtime_nsec = info.mtime_sec, info.mtime_nsec
    inode.nlink = info.nlink
    inode.size = node.size
    inode.payload = node.payload
    inode.content = node.content
    inode.digest = node.digest
    if node.xattrs:
        inode.xattrs = dict(node.xattrs)
    return inode


def _at(root: Inode, path: bytes) -> Inode:
    """The inode at `path` of a tree that has it."""
    inode = root
    for name in path.split(b"/")[1:]:
        assert inode.entries is not None
        inode = inode.entries[name]
    return inode
