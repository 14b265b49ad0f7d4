"""Writes EROFS images of composefs version 2, the older format of composefs-rs, as cfsctl 0.9 does.

For repositories that were made for it. Against versions 0 and 1: inodes are numbered depth first
and all extended, their mtimes are whole seconds and the superblock has none; nothing is added to
the root and whiteouts stay devices; the own xattrs come first as they are made (metacopy, redirect,
then the tree's by name), the shared ones are in ascending order and referred to from the start of
the image; link counts are those of the tree's names; a file has one chunk; tails are moved behind
the next block boundary by another rule.
"""

from __future__ import annotations

import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterable

from cfsrepo.errors import InputError, LimitError, printable
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import TAIL_MAX, dirents, split_into_blocks
from cfsrepo.formats.erofs.layout import BLOCK_SIZE
from cfsrepo.formats.erofs.plan import Pair, check_names, own_xattrs
from cfsrepo.formats.tree import Inode

_IFMT = 0o170000
_FLUSH = 1 << 20
_CONTENT_MAX = BLOCK_SIZE - 1  # all of it is in the tail
_SHARED_MAX = 255


class _Entry:
    """An inode of the image and what is known of it."""

    __slots__ = ("children", "inode", "names", "nlink", "own", "parent", "shared", "size", "tail")

    def __init__(self, inode: Inode, parent: int) -> None:
        self.inode = inode
        self.parent = parent
        self.nlink = 1
        self.own: list[Pair] = []
        self.shared: list[Pair] = []
        self.names: list[bytes] = []  # of a directory, with `.` and `..`
        self.children: list[int] = []
        self.size = 0
        self.tail = 0  # bytes after the xattrs


def write_legacy_image(root: Inode, out: Callable[[bytes], object]) -> None:
    """Give the version 2 image of `root` to `out`, in pieces, front to back.

    Raises InputError for a tree that such an image cannot hold, LimitError where it is too large.
    """
    _LegacyWriter(root).write(out)


class _LegacyWriter:
    def __init__(self, root: Inode) -> None:
        if root.entries is None:
            raise InputError("/: the root of a tree must be a directory")
        self._entries: list[_Entry] = []
        self._offsets: list[int] = []
        self._collect(root)
        self._shared = self._share()

    # --- what the image holds --------------------------------------------------------------------

    def _collect(self, root: Inode) -> None:
        """Number the inodes depth first; a hard-linked one where its first name is."""
        index_of: dict[Inode, int] = {}
        entries = self._entries
        self._add(root, 0, b"/", index_of)
        stack = [(0, b"", iter(sorted((root.entries or {}).items())))]
        while stack:
            above, path, names = stack[-1]
            directory = entries[above]
            for name, inode in names:
                below = path + b"/" + name
                index = index_of.get(inode)
                if index is not None:
                    if inode.entries is not None:
                        raise InputError(
                            f"{printable(below)}: the directory is hard-linked or contains itself"
                        )
                    entries[index].nlink += 1
                else:
                    index = self._add(inode, above, below, index_of)
                directory.names.append(name)
                directory.children.append(index)
                if inode.entries is not None:
                    stack.append((index, below, iter(sorted(inode.entries.items()))))
                    break
            else:
                stack.pop()
        for index, entry in enumerate(entries):
            if entry.inode.entries is not None:
                self._finish_directory(index, entry)

    def _add(self, inode: Inode, parent: int, path: bytes, index_of: dict[Inode, int]) -> int:
        """Append an inode; checks all of it but its numbers."""
        entry = _Entry(inode, parent)
        index = index_of[inode] = len(self._entries)
        self._entries.append(entry)
        kind = inode.mode & _IFMT
        shown = printable(path)
        if kind not in layout.FILE_TYPES or (inode.entries is None) == (kind == stat.S_IFDIR):
            raise InputError(f"{shown}: mode {inode.mode:o} does not fit the file")
        if inode.entries is not None:
            check_names(inode.entries, lambda: shown)
        elif kind == stat.S_IFLNK:
            target = inode.payload
            if not target or len(target) > layout.SYMLINK_MAX or b"\0" in target:
                raise InputError(
                    f"{shown}: a symlink's target must have 1 to {layout.SYMLINK_MAX} bytes "
                    "and no NUL"
                )
            entry.size = entry.tail = len(target)
        elif kind == stat.S_IFREG and inode.size:
            self._add_data(entry, shown)
        entry.own.extend(sorted_xattrs(own_xattrs(inode, lambda: shown), inode))
        return index

    def _add_data(self, entry: _Entry, shown: str) -> None:
        inode = entry.inode
        entry.size = inode.size
        if inode.content is not None:
            if len(inode.content) != inode.size:
                raise InputError(f"{shown}: content of another length than the file")
            if inode.size > _CONTENT_MAX:
                raise LimitError(f"{shown}: content of {inode.size} bytes is over {_CONTENT_MAX}")
            entry.tail = inode.size
            return
        digest, payload = inode.digest, inode.payload
        if digest is None or len(digest) not in layout.METACOPY_ALGORITHMS or not payload:
            raise InputError(f"{shown}: a file outside a version 2 image needs path and digest")
        if len(payload) > layout.SYMLINK_MAX or b"\0" in payload:
            raise InputError(f"{shown}: the path of the object is too long or has a NUL")
        if inode.size > 1 << layout.CHUNK_BITS_MAX:
            raise LimitError(f"{shown}: {inode.size} bytes are over {1 << layout.CHUNK_BITS_MAX}")
        entry.tail = len(_HOLE)
        entry.own.append((layout.OVERLAY_METACOPY, layout.metacopy_value(digest)))
        entry.own.append((layout.OVERLAY_REDIRECT, b"/" + payload))

    def _finish_directory(self, index: int, entry: _Entry) -> None:
        """Put `.` and `..` among the names; the size, now that all names are known."""
        pairs = sorted(
            [*zip(entry.names, entry.children, strict=True), (b".", index), (b"..", entry.parent)]
        )
        entry.names = [name for name, _ in pairs]
        entry.children = [child for _, child in pairs]
        entries = self._entries
        entry.nlink = sum(entries[child].inode.entries is not None for child in entry.children)
        start, end = split_into_blocks(entry.names)[-1]
        tail = layout.DIRENT_SIZE * (end - start) + sum(map(len, entry.names[start:end]))
        blocks = len(split_into_blocks(entry.names)) - 1
        if tail > TAIL_MAX:
            blocks, tail = blocks + 1, 0
        entry.tail = tail
        entry.size = blocks * BLOCK_SIZE + tail

    def _share(self) -> list[Pair]:
        """Move xattrs that several inodes have to the shared table, which is returned."""
        counts = Counter(pair for entry in self._entries for pair in entry.own)
        shared = {pair for pair, count in counts.items() if count > 1}
        for entry in self._entries:
            entry.shared = [pair for pair in entry.own if pair in shared]
            entry.own = [pair for pair in entry.own if pair not in shared]
            if len(entry.shared) > _SHARED_MAX:
                raise LimitError("a file shares more than 255 extended attributes with others")
        return sorted(shared, key=lambda pair: (*_split(pair[0]), pair[1]))

    # --- bytes -----------------------------------------------------------------------------------

    def write(self, out: Callable[[bytes], object]) -> None:
        """Place everything, then write it."""
        areas = [self._area_size(entry) for entry in self._entries]
        pos = layout.INODES_OFFSET
        for entry, area in zip(self._entries, areas, strict=True):
            pos = _round_up(pos, layout.SLOT_SIZE)
            if entry.tail and self._is_inline(entry):
                last = pos + layout.EXTENDED_SIZE + area - 1  # before the tail
                if last // BLOCK_SIZE != (last + 1 + entry.size % BLOCK_SIZE) // BLOCK_SIZE:
                    pos = _round_up(pos + BLOCK_SIZE - last % BLOCK_SIZE, layout.SLOT_SIZE)
            self._offsets.append(pos)
            pos += layout.EXTENDED_SIZE + area + entry.tail
        inodes_end = pos = _round_up(pos, layout.SLOT_SIZE)
        references: dict[Pair, int] = {}
        for pair in self._shared:
            references[pair] = pos // 4
            pos += len(_entry_bytes(pair))
        data_start = _round_up(pos, BLOCK_SIZE)
        blocks = sum(
            entry.size // BLOCK_SIZE for entry in self._entries if entry.inode.entries is not None
        )
        if self._offsets[0] >> layout.SLOT_BITS > layout.ROOT_NID_MAX:
            raise LimitError("the root directory's inode lies too far behind")
        out(self._head(data_start // BLOCK_SIZE + blocks))
        try:
            self._write_inodes(out, areas, references, data_start // BLOCK_SIZE, inodes_end)
        except struct.error:
            raise LimitError("owner, device number or mtime of a file out of range") from None
        table = b"".join(map(_entry_bytes, self._shared))
        out(table + bytes(data_start - inodes_end - len(table)))
        for entry in self._entries:
            if entry.size >= BLOCK_SIZE and entry.inode.entries is not None:
                parts: list[bytes] = []
                for start, end in split_into_blocks(entry.names)[: entry.size // BLOCK_SIZE]:
                    block = self._dirents(entry, start, end)
                    parts += (block, bytes(BLOCK_SIZE - len(block)))
                out(b"".join(parts))

    def _head(self, blocks: int) -> bytes:
        head = bytearray(layout.INODES_OFFSET)
        layout.HEADER.pack_into(
            head, 0, layout.COMPOSEFS_MAGIC, layout.COMPOSEFS_HEADER_VERSION, 0,
            layout.VERSION_COMPOSEFS_RS,
        )  # fmt: skip
        layout.SUPERBLOCK.pack_into(
            head, layout.SUPERBLOCK_OFFSET, layout.EROFS_MAGIC, 0,
            layout.FEATURE_COMPAT_MTIME | layout.FEATURE_COMPAT_XATTR_FILTER, layout.BLOCK_BITS, 0,
            self._offsets[0] >> layout.SLOT_BITS, len(self._entries), 0, 0, blocks, 0, 0,
            bytes(16), bytes(16), *[0] * 9,
        )  # fmt: skip
        return bytes(head)

    def _write_inodes(
        self,
        out: Callable[[bytes], object],
        areas: list[int],
        references: dict[Pair, int],
        next_block: int,
        end: int,
    ) -> None:
        parts: list[bytes] = []
        at, pending = layout.INODES_OFFSET, 0
        for entry, area, offset in zip(self._entries, areas, self._offsets, strict=True):
            inode = entry.inode
            kind = inode.mode & _IFMT
            union, tail = 0, b""
            data_layout = layout.LAYOUT_FLAT_PLAIN
            if kind == stat.S_IFDIR:
                blocks = entry.size // BLOCK_SIZE
                if blocks:
                    union = next_block
                    next_block += blocks
                if entry.tail:
                    data_layout = layout.LAYOUT_FLAT_INLINE
                    tail = self._dirents(entry, *split_into_blocks(entry.names)[-1])
            elif kind == stat.S_IFLNK:
                data_layout, tail = layout.LAYOUT_FLAT_INLINE, inode.payload or b""
            elif kind == stat.S_IFREG and inode.size:
                if inode.content is not None:
                    data_layout, tail = layout.LAYOUT_FLAT_INLINE, inode.content
                else:
                    data_layout, tail = layout.LAYOUT_CHUNK_BASED, _HOLE
                    union = layout.CHUNK_BITS_MASK
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                union = inode.rdev
            parts += (
                bytes(offset - at),
                layout.INODE_EXTENDED.pack(
                    data_layout << layout.FORMAT_LAYOUT_SHIFT | layout.FORMAT_EXTENDED,
                    (area - 8) >> 2 if area else 0, inode.mode & 0xFFFF, 0, entry.size, union,
                    offset >> layout.SLOT_BITS, inode.uid, inode.gid, inode.mtime_sec, 0,
                    entry.nlink,
                ),
                self._area(entry, references),
                tail,
            )  # fmt: skip
            at = offset + layout.EXTENDED_SIZE + area + entry.tail
            pending += layout.EXTENDED_SIZE + area + entry.tail
            if pending > _FLUSH:
                out(b"".join(parts))
                parts.clear()
                pending = 0
        out(b"".join(parts) + bytes(end - at))

    @staticmethod
    def _is_inline(entry: _Entry) -> bool:
        inode = entry.inode
        return not stat.S_ISREG(inode.mode) or inode.content is not None

    @staticmethod
    def _area_size(entry: _Entry) -> int:
        if not entry.own and not entry.shared:
            return 0
        own = sum(len(_entry_bytes(pair)) for pair in entry.own)
        return layout.XATTR_BODY_SIZE + 4 * len(entry.shared) + own

    @staticmethod
    def _area(entry: _Entry, references: dict[Pair, int]) -> bytes:
        if not entry.own and not entry.shared:
            return b""
        names = 0
        for key, _ in (*entry.own, *entry.shared):
            names |= _filter_bit(key)
        head = layout.XATTR_BODY.pack(layout.XATTR_FILTER_ALL & ~names, len(entry.shared))
        shared = struct.pack(f"<{len(entry.shared)}I", *(references[pair] for pair in entry.shared))
        return head + shared + b"".join(map(_entry_bytes, entry.own))

    def _dirents(self, entry: _Entry, start: int, end: int) -> bytes:
        children = entry.children[start:end]
        nids = (self._offsets[child] >> layout.SLOT_BITS for child in children)
        types = (layout.FILE_TYPES[self._entries[child].inode.mode & _IFMT] for child in children)
        return dirents(entry.names[start:end], nids, types)


_HOLE = b"\xff\xff\xff\xff"


def sorted_xattrs(xattrs: dict[bytes, bytes], inode: Inode) -> Iterable[Pair]:
    """The escaped `xattrs` of `inode` in the order of the names that they had before."""
    return [pair for _, pair in sorted(zip(inode.xattrs or {}, xattrs.items(), strict=True))]


def _round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def _split(name: bytes) -> tuple[int, bytes]:
    """(prefix index, rest) of a name; here `lustre.` is a prefix, too."""
    if name.startswith(b"lustre."):
        return 5, name[len(b"lustre.") :]
    return layout.split_xattr_name(name)


def _entry_bytes(pair: Pair) -> bytes:
    index, rest = _split(pair[0])
    entry = layout.XATTR_ENTRY.pack(len(rest), index, len(pair[1])) + rest + pair[1]
    return entry + bytes(-len(entry) & 3)


def _filter_bit(name: bytes) -> int:
    return layout.xattr_filter_bit_of(*_split(name))
