"""A directory of an image: its entries in byte order, split over blocks and the inode's tail.

Entries, `.` and `..` among them, fill blocks one after another; an entry never crosses into the
next block. What is left over at the end goes into the inode's tail, or into a padded block of its
own when it is more than half a block.

A block is a table of fixed parts (`layout.DIRENT`), then the names in the same order, one against
the other: a name ends where the next one begins, the last one at the end of the block or at its
first NUL. The offset of the first name tells the number of entries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import accumulate, repeat

from cfsrepo.errors import InputError
from cfsrepo.formats.erofs.layout import BLOCK_SIZE, DIRENT, DIRENT_SIZE, NAME_MAX
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


# --- reading -------------------------------------------------------------------------------------


def parse_entries(block: bytes) -> list[tuple[int, bytes, int]]:
    """(nid, name, file type) of the entries of a block, in its order. Names are checked.

    Raises InputError where the block is damaged; its message goes on where an inode was named.
    """
    table = _table_size(block)
    end = block.find(b"\0", int.from_bytes(block[table - 4 : table - 2], "little"))
    if end < 0:
        end = len(block)
    names = block[table:end]
    if b"/" in names or b"\0" in names:
        raise InputError("is a damaged directory (bad character in a name)")
    entries = []
    for nid, start, kind, _ in reversed(list(DIRENT.iter_unpack(block[:table]))):
        if not (table <= start < end <= start + NAME_MAX):
            raise InputError("is a damaged directory (bad length of a name)")
        entries.append((nid, block[start:end], kind))
        end = start
    entries.reverse()
    return entries


def find_entry(block: bytes, name: bytes) -> int | None:
    """The nid of entry `name` of a block, by binary search; None where there is none.

    Raises InputError where the table of the block is damaged.
    """
    low, high = 0, _table_size(block) // DIRENT_SIZE
    while low < high:
        middle = (low + high) >> 1
        candidate = entry_name(block, middle)
        if candidate == name:
            nid: int = DIRENT.unpack_from(block, middle * DIRENT_SIZE)[0]
            return nid
        if candidate < name:
            low = middle + 1
        else:
            high = middle
    return None


def entry_name(block: bytes, index: int) -> bytes:
    """The name of entry `index` of a block, for comparing; empty where it is damaged.

    Damage only misleads the search, as it does in the kernel: no access leaves the block.
    """
    try:
        start = DIRENT.unpack_from(block, index * DIRENT_SIZE)[1]
        table = block[8] | block[9] << 8
        if (index + 1) * DIRENT_SIZE < table:
            end = DIRENT.unpack_from(block, (index + 1) * DIRENT_SIZE)[1]
            return block[start:end]
    except (IndexError, struct.error):
        return b""
    end = block.find(b"\0", start)
    return block[start:] if end < 0 else block[start:end]


def _table_size(block: bytes) -> int:
    """Bytes of the table of a block, which is known to lie inside it."""
    if len(block) < DIRENT_SIZE:
        raise InputError("is a damaged directory")
    table = block[8] | block[9] << 8
    if table % DIRENT_SIZE or not DIRENT_SIZE <= table < len(block):
        raise InputError("is a damaged directory")
    return table
