"""A directory of an image: its entries in byte order, split over blocks and the inode's tail.

Entries, `.` and `..` among them, fill blocks one after another; an entry never crosses into the
next block. What is left over at the end goes into the inode's tail, or into a padded block of its
own when it is more than half a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, repeat

from cfsrepo.formats.erofs.layout import BLOCK_SIZE, DIRENT, DIRENT_SIZE
from cfsrepo.formats.tree import Inode

TAIL_MAX = BLOCK_SIZE // 2  # of a directory or of a file's content; composefs's choice


class Directory:
    """A directory of a plan. Its children are consecutive, but for other names of hard links."""

    __slots__ = ("children", "first", "index", "inode", "names", "parent")

    def __init__(
        self, index: int, inode: Inode, names: list[bytes], children: dict[bytes, Inode], first: int
    ) -> None:
        self.index = index
        self.inode = inode
        self.names = names  # in byte order, without `.` and `..`
        self.children = children  # name -> inode of the tree, or a whiteout of the root
        self.first = first  # index of its first child
        self.parent = self  # of the root: itself

    def link_count(self) -> int:
        """Its nlink: itself, its name above, and `..` of each directory in it."""
        return 2 + sum(child.entries is not None for child in self.children.values())

    def blocks_and_tail(self) -> tuple[int, int]:
        """(whole blocks, bytes of the tail); the size of the directory is their sum in bytes."""
        names = self.names
        total = DIRENT_SIZE * (len(names) + 2) + sum(map(len, names)) + len(b"...")
        if total <= BLOCK_SIZE:
            return (0, total) if total <= TAIL_MAX else (1, 0)
        names = sorted([*names, b".", b".."])
        blocks = split_into_blocks(names)
        start, end = blocks[-1]
        tail = DIRENT_SIZE * (end - start) + sum(map(len, names[start:end]))
        return (len(blocks), 0) if tail > TAIL_MAX else (len(blocks) - 1, tail)


def split_into_blocks(names: list[bytes]) -> list[tuple[int, int]]:
    """The ranges of entries that fill a block each; the last one may become the tail."""
    if DIRENT_SIZE * len(names) + sum(map(len, names)) <= BLOCK_SIZE:
        return [(0, len(names))]
    blocks = []
    start = used = 0
    for index, name in enumerate(names):
        length = DIRENT_SIZE + len(name)
        if used + length > BLOCK_SIZE:
            blocks.append((start, index))
            start, used = index, 0
        used += length
    blocks.append((start, len(names)))
    return blocks


def dirents(names: list[bytes], nids: Iterable[int], types: Iterable[int]) -> bytes:
    """The entries of one block, without padding: the fixed parts, then the names."""
    offsets = accumulate(map(len, names), initial=DIRENT_SIZE * len(names))
    return b"".join([*map(DIRENT.pack, nids, offsets, types, repeat(0)), *names])
