"""Writes EROFS images of composefs versions 0 and 1, byte for byte as composefs 1.0.8 does.

`erofs.plan` decides what the image holds, `erofs.placement` where each inode lies; here the bytes
are made front to back.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from itertools import repeat

from cfsrepo.errors import LimitError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import Directory, dirents, split_into_blocks
from cfsrepo.formats.erofs.layout import BLOCK_SIZE
from cfsrepo.formats.erofs.legacy_writer import write_legacy_image
from cfsrepo.formats.erofs.placement import Placement
from cfsrepo.formats.erofs.plan import Plan, entry_bytes
from cfsrepo.formats.erofs.xattrareas import AreaTemplate, XattrAreas
from cfsrepo.formats.tree import Inode, paused_gc

Out = Callable[[bytes], object]

_FLUSH = 1 << 20
_ONE_CHUNK_MAX = 1 << layout.CHUNK_BITS_MAX
_HOLE = b"\xff\xff\xff\xff"
_PLAIN = layout.LAYOUT_FLAT_PLAIN << layout.FORMAT_LAYOUT_SHIFT
_INLINE = layout.LAYOUT_FLAT_INLINE << layout.FORMAT_LAYOUT_SHIFT
_CHUNKED = layout.LAYOUT_CHUNK_BASED << layout.FORMAT_LAYOUT_SHIFT
# The chunk format of a file by the number of bits of its last byte's offset.
_CHUNK_FORMATS = bytes(layout.chunk_bits(1 << bits) - layout.BLOCK_BITS for bits in range(64))

# What stands in an inode beside its metadata: (format, i_u, size, nlink, tail).
_Body = tuple[int, int, int, int, bytes]


def write_image(root: Inode, out: Out, *, min_version: int = 1, max_version: int = 1) -> None:
    """Give the image of `root` to `out`, in pieces, front to back.

    The version is `min_version`, raised up to `max_version` where the tree needs it (whiteouts
    need 1); 2 for both is composefs-rs's older format. Memory: the tree, some 100 bytes an inode,
    and a piece.

    Raises InputError for a tree that no image can hold, naming the path; LimitError where it is
    only too large; UsageError for versions that do not exist.
    """
    with paused_gc():
        if min_version == max_version == layout.VERSION_COMPOSEFS_RS:
            write_legacy_image(root, out)
            return
        _Writer(Plan(root, min_version=min_version, max_version=max_version)).write(out)


class _Writer:
    """Makes the bytes of the image that `plan` describes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._areas = XattrAreas(plan)
        self._placement = placement = Placement(plan, self._areas.of_inode)
        self._nids = placement.nids
        self._blocks = placement.blocks
        self._directories = iter(plan.directories)
        shared_end = placement.end + plan.shared_size
        self._data_start = (shared_end + BLOCK_SIZE - 1) & -BLOCK_SIZE
        self._next_block = self._data_start // BLOCK_SIZE

    def write(self, out: Out) -> None:
        """Give all of the image to `out`."""
        plan, inodes_end = self._plan, self._placement.end
        try:
            out(self._head())
            self._areas.finish(inodes_end % BLOCK_SIZE)
            self._write_inodes(out)
        except struct.error:
            raise self._out_of_range() from None
        shared = b"".join(map(entry_bytes, plan.shared_offsets))
        out(shared + bytes(self._data_start - inodes_end - len(shared)))
        self._write_blocks(out)

    def _out_of_range(self) -> LimitError:
        """The inode whose numbers do not fit, found after the fact."""
        for index, inode in enumerate(self._plan.inodes):
            u32 = (inode.uid, inode.gid, inode.nlink, inode.rdev, inode.mtime_nsec)
            if (
                min(u32) < 0
                or max(u32) >= 1 << 32
                or not 0 <= inode.size < 1 << 64
                or not -(1 << 63) <= inode.mtime_sec < 1 << 63
            ):
                return LimitError(
                    f"{self._plan.path(index)}: owner, size, device number or mtime out of range"
                )
        return LimitError("the image is too large")

    def _head(self) -> bytes:
        """Header and superblock."""
        plan = self._plan
        blocks = sum(count for count, _ in self._blocks.values())
        head = bytearray(layout.INODES_OFFSET)
        layout.HEADER.pack_into(
            head,
            0,
            layout.COMPOSEFS_MAGIC,
            layout.COMPOSEFS_HEADER_VERSION,
            layout.FLAG_HAS_ACL if plan.has_acl else 0,
            plan.version,
        )
        layout.SUPERBLOCK.pack_into(
            head,
            layout.SUPERBLOCK_OFFSET,
            layout.EROFS_MAGIC,
            0,
            layout.FEATURE_COMPAT_MTIME | layout.FEATURE_COMPAT_XATTR_FILTER,
            layout.BLOCK_BITS,
            0,
            self._nids[0],
            len(plan.inodes),
            *plan.min_mtime,
            self._data_start // BLOCK_SIZE + blocks,
            0,
            self._placement.end // BLOCK_SIZE,
            bytes(16),
            bytes(16),
            *repeat(0, 9),
        )
        return bytes(head)

    # --- inodes ----------------------------------------------------------------------------------

    def _write_inodes(self, out: Out) -> None:
        """Each inode with its xattr area and its tail, from the first to the last."""
        plan, placement = self._plan, self._placement
        bodies: list[Callable[[int, Inode], _Body]] = [self._other_body] * 16
        bodies[0o10] = self._file_body
        bodies[0o04] = self._directory_body
        bodies[0o12] = self._symlink_body
        pieces: tuple[bytes | None, ...]
        base = layout.INODES_OFFSET
        buffer = bytearray(_FLUSH + 2 * 0x12000)  # any inode with its xattrs and tail fits behind
        columns = zip(
            plan.inodes, self._areas.of_inode, self._nids, placement.extended, strict=True
        )
        for index, (inode, area, nid, is_extended) in enumerate(columns):
            at = (nid << 5) - base
            if at >= _FLUSH:
                # What follows this inode's start is untouched; padding before it is zero already.
                out(bytes(memoryview(buffer)[:at]))
                base += at
                at = 0
                buffer = bytearray(len(buffer))
            mode = inode.mode & 0xFFFF
            form, union, size, nlink, tail = bodies[mode >> 12](index, inode)
            if type(area) is AreaTemplate:
                pieces = area.before, inode.digest, area.between, inode.payload, area.after
            else:
                pieces = area.pieces
            if is_extended:
                area.extended.pack_into(
                    buffer, at, form | 1, area.icount, mode, 0, size, union, index,
                    inode.uid, inode.gid, inode.mtime_sec, inode.mtime_nsec, nlink, *pieces,
                )  # fmt: skip
                at += 64 + area.size
            else:
                area.compact.pack_into(
                    buffer, at, form, area.icount, mode, nlink, size, 0, union, index,
                    inode.uid, inode.gid, 0, *pieces,
                )  # fmt: skip
                at += 32 + area.size
            if tail:
                buffer[at : at + len(tail)] = tail
        out(bytes(memoryview(buffer)[: placement.end - base]))

    def _take_blocks(self, count: int) -> int:
        """The number of the first of the next `count` data blocks."""
        first = self._next_block
        self._next_block += count
        return first

    def _file_body(self, index: int, inode: Inode) -> _Body:
        size, content = inode.size, inode.content
        if not size:
            return _PLAIN, 0, 0, inode.nlink, b""
        if content is None:
            form = _CHUNK_FORMATS[(size - 1).bit_length()]
            if index in self._blocks:  # the map is in a block; its number shares the field
                return _CHUNKED, self._take_blocks(1) & 0xFFFF0000 | form, size, inode.nlink, b""
            tail = _HOLE if size <= _ONE_CHUNK_MAX else _HOLE * layout.chunk_count(size)
            return _CHUNKED, form, size, inode.nlink, tail
        if index not in self._blocks:
            return _INLINE, 0, size, inode.nlink, content
        blocks, length = self._blocks[index]
        first = self._take_blocks(blocks)
        if not length:
            return _PLAIN, first, size, inode.nlink, b""
        return _INLINE, first, size, inode.nlink, content[-length:]

    def _directory_body(self, index: int, _inode: Inode) -> _Body:
        names, nids, types = self._entries(next(self._directories))
        chunks = split_into_blocks(names)
        blocks, _ = self._blocks.get(index, (0, 0))
        form, tail = _PLAIN, b""
        if blocks < len(chunks):
            start, end = chunks[-1]
            form = _INLINE
            tail = dirents(names[start:end], nids[start:end], types[start:end])
        first = self._take_blocks(blocks) if blocks else 0
        return form, first, blocks * BLOCK_SIZE + len(tail), types.count(layout.FT_DIR), tail

    def _symlink_body(self, index: int, inode: Inode) -> _Body:
        target = inode.payload
        assert target is not None
        if index in self._blocks:
            return _PLAIN, self._take_blocks(1), len(target), inode.nlink, b""
        return _INLINE, 0, len(target), inode.nlink, target

    def _other_body(self, _index: int, inode: Inode) -> _Body:
        return _PLAIN, inode.rdev if inode.is_device else 0, 0, inode.nlink, b""

    # --- blocks ----------------------------------------------------------------------------------

    def _write_blocks(self, out: Out) -> None:
        """Data blocks in the order of inodes."""
        plan = self._plan
        by_index = {directory.index: directory for directory in plan.directories}
        parts: list[bytes] = []
        pending = 0
        for index, (blocks, _) in self._blocks.items():
            inode = plan.inodes[index]
            if index in by_index:
                names, nids, types = self._entries(by_index[index])
                for start, end in split_into_blocks(names)[:blocks]:
                    block = dirents(names[start:end], nids[start:end], types[start:end])
                    parts += (block, bytes(BLOCK_SIZE - len(block)))
            elif inode.content is not None:
                block = inode.content[: blocks * BLOCK_SIZE]
                parts += (block, bytes(blocks * BLOCK_SIZE - len(block)))
            elif inode.is_symlink:
                assert inode.payload is not None
                parts += (inode.payload, bytes(BLOCK_SIZE - len(inode.payload)))
            else:
                parts.append(_HOLE * (BLOCK_SIZE // 4))
            pending += blocks * BLOCK_SIZE
            if pending >= _FLUSH:
                out(b"".join(parts))
                parts.clear()
                pending = 0
        if parts:
            out(b"".join(parts))

    def _entries(self, directory: Directory) -> tuple[list[bytes], list[int], bytearray]:
        """Names (with `.` and `..`), nids and types of a directory, in the order of the image."""
        names, types_of = directory.names, self._placement.types
        if self._plan.linked:
            indexes = self._plan.child_indexes(directory)
            nids = [self._nids[index] for index in indexes]
            types = bytearray(types_of[index] for index in indexes)
        else:
            end = directory.first + len(names)
            nids = self._nids[directory.first : end].tolist()
            types = types_of[directory.first : end]
        at = bisect_left(names, b".")
        own, above = self._nids[directory.index], self._nids[directory.parent.index]
        names = [*names[:at], b".", *names[at:]]
        nids.insert(at, own)
        types.insert(at, layout.FT_DIR)
        at = bisect_left(names, b"..", at)
        names.insert(at, b"..")
        nids.insert(at, above)
        types.insert(at, layout.FT_DIR)
        return names, nids, types
