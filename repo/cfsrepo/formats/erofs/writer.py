"""Writes EROFS images of composefs versions 0 and 1, byte for byte as composefs 1.0.8 does.

`erofs.plan` decides what the image holds; here every inode gets its place (`_place`), then the
bytes are made front to back (`_emit`). Three rules of placement are composefs's own choice:

- the tail of an inode lies within one block; an inode is moved up in slots until it does, or the
  tail becomes a data block of its own where that is hopeless;
- a symlink's inode lies in the same block as its tail as well (old kernels want that);
- a directory's or a file's last part goes into the tail only up to half a block.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from itertools import repeat

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import TAIL_MAX, Directory, dirents, split_into_blocks
from cfsrepo.formats.erofs.layout import BLOCK_SIZE
from cfsrepo.formats.erofs.legacy_writer import write_legacy_image
from cfsrepo.formats.erofs.plan import Plan, entry_bytes
from cfsrepo.formats.erofs.xattrareas import Area, AreaTemplate, XattrAreas
from cfsrepo.formats.tree import Inode, paused_gc

Out = Callable[[bytes], object]

_FLUSH = 1 << 20
_IFMT = 0o170000
_ONE_CHUNK_MAX = 1 << layout.CHUNK_BITS_MAX
_REG = 0o100000
_DIR = 0o040000
_LNK = 0o120000
_BLK = 0o060000
_CHR = 0o020000
_HOLE = b"\xff\xff\xff\xff"
# File type of a directory entry by mode >> 12; 0 where there is none.
_TYPES = bytes(layout.FILE_TYPES.get(kind << 12, 0) for kind in range(16))
_PLAIN = layout.LAYOUT_FLAT_PLAIN << layout.FORMAT_LAYOUT_SHIFT
_INLINE = layout.LAYOUT_FLAT_INLINE << layout.FORMAT_LAYOUT_SHIFT
_CHUNKED = layout.LAYOUT_CHUNK_BASED << layout.FORMAT_LAYOUT_SHIFT


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
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._areas = XattrAreas(plan)
        self._nids: list[int] = []
        self._extended = bytearray(len(plan.inodes))
        self._types = bytearray(len(plan.inodes))
        # Inodes with data blocks, by index: (number of blocks, bytes of the tail).
        self._blocks: dict[int, tuple[int, int]] = {}
        self._inodes_end = 0

    def write(self, out: Out) -> None:
        self._place()
        try:
            self._emit(out)
        except struct.error:
            raise self._out_of_range() from None

    def _out_of_range(self) -> InputError:
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

    # --- placement -------------------------------------------------------------------------------

    def _place(self) -> None:
        """Give every inode its nid, and decide what goes into blocks."""
        plan = self._plan
        min_sec, min_nsec = plan.min_mtime
        nids, extended, types = self._nids, self._extended, self._types
        directories = iter(plan.directories)
        pos = layout.INODES_OFFSET
        for index, (inode, area) in enumerate(zip(plan.inodes, self._areas.of_inode, strict=True)):
            mode = inode.mode
            kind = mode & _IFMT
            size = inode.size
            nlink = inode.nlink
            blocks = 0
            types[index] = _TYPES[mode >> 12 & 15]
            if not types[index] or (inode.entries is None) == (kind == _DIR):
                raise InputError(f"{plan.path(index)}: mode {mode:o} does not fit the file")
            if kind == _REG:
                if not size:
                    tail = 0
                elif inode.content is None:
                    tail = 4 if size <= _ONE_CHUNK_MAX else 4 * layout.chunk_count(size)
                    payload = inode.payload
                    if payload is not None or size > layout.FILE_SIZE_MAX:
                        self._check_object(index, inode)
                else:
                    if len(inode.content) != size or size > layout.CONTENT_MAX:
                        raise self._bad_content(index, inode)
                    blocks, tail = divmod(size, BLOCK_SIZE)
                    if tail > TAIL_MAX:
                        blocks, tail = blocks + 1, 0
            elif kind == _DIR:
                directory = next(directories)
                blocks, tail = directory.blocks_and_tail()
                size = blocks * BLOCK_SIZE + tail
                nlink = 2 if len(directory.names) < 0xFFFD else directory.link_count()
            elif kind == _LNK:
                target = inode.payload
                if not target or len(target) > layout.SYMLINK_MAX or b"\0" in target:
                    raise InputError(
                        f"{plan.path(index)}: a symlink's target must have 1 to "
                        f"{layout.SYMLINK_MAX} bytes and no NUL"
                    )
                size = tail = len(target)
            else:
                tail = 0
            if (
                inode.mtime_nsec == min_nsec
                and inode.mtime_sec == min_sec
                and inode.uid <= 0xFFFF
                and inode.gid <= 0xFFFF
                and size <= 0xFFFFFFFF
                and nlink <= 0xFFFF
            ):
                head = 32
            else:
                head = 64
                extended[index] = 1
            if area is not None:
                head += area.size

            pos = (pos + 31) & ~31
            if kind == _LNK:
                end = pos + head + tail - 1
                if head + tail >= BLOCK_SIZE:
                    blocks, tail = 1, 0
                if pos // BLOCK_SIZE != end // BLOCK_SIZE:
                    pos = (pos + BLOCK_SIZE - 1) & -BLOCK_SIZE
            elif tail:
                room = BLOCK_SIZE - (pos + head) % BLOCK_SIZE
                if room < tail:
                    pad = (room + 31) & ~31
                    if tail <= BLOCK_SIZE - (pos + head + pad) % BLOCK_SIZE:
                        pos += pad
                    else:
                        blocks, tail = blocks + 1, 0
                        pos = (pos + BLOCK_SIZE - 1) & -BLOCK_SIZE
            if blocks:
                self._blocks[index] = blocks, tail
            nids.append(pos >> 5)
            pos += head + tail
        self._inodes_end = (pos + 31) & ~31
        if nids[0] > layout.ROOT_NID_MAX:
            raise LimitError("the root directory's inode lies too far behind")

    def _check_object(self, index: int, inode: Inode) -> None:
        payload = inode.payload or b""
        if len(payload) > layout.SYMLINK_MAX or b"\0" in payload:
            raise InputError(
                f"{self._plan.path(index)}: an object's path must have up to "
                f"{layout.SYMLINK_MAX} bytes and no NUL"
            )
        if inode.size > layout.FILE_SIZE_MAX:
            raise LimitError(
                f"{self._plan.path(index)}: {inode.size} bytes are over {layout.FILE_SIZE_MAX}"
            )

    def _bad_content(self, index: int, inode: Inode) -> InputError:
        path, length = self._plan.path(index), len(inode.content or b"")
        if length != inode.size:
            return InputError(f"{path}: content of {length} bytes in a file of {inode.size}")
        return LimitError(f"{path}: content of {length} bytes is over {layout.CONTENT_MAX}")

    # --- bytes -----------------------------------------------------------------------------------

    def _emit(self, out: Out) -> None:
        plan = self._plan
        data_start = self._inodes_end + plan.shared_size
        data_start = (data_start + BLOCK_SIZE - 1) & -BLOCK_SIZE
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
            data_start // BLOCK_SIZE + blocks,
            0,
            self._inodes_end // BLOCK_SIZE,
            bytes(16),
            bytes(16),
            *repeat(0, 9),
        )
        out(bytes(head))
        self._areas.finish(self._inodes_end % BLOCK_SIZE)
        self._emit_inodes(out, data_start // BLOCK_SIZE)
        shared = [entry_bytes(pair) for pair in plan.shared_offsets]
        shared.append(bytes(data_start - self._inodes_end - plan.shared_size))
        out(b"".join(shared))
        self._emit_blocks(out)

    def _emit_inodes(self, out: Out, next_block: int) -> None:
        plan = self._plan
        compact, extended = layout.INODE_COMPACT, layout.INODE_EXTENDED
        has_blocks = self._blocks
        directories = iter(plan.directories)
        base = layout.INODES_OFFSET
        buffer = bytearray(_FLUSH + 2 * 0x12000)  # any inode with its xattrs and tail fits behind
        columns = zip(plan.inodes, self._areas.of_inode, self._nids, self._extended, strict=True)
        for index, (inode, area, nid, is_extended) in enumerate(columns):
            at = (nid << 5) - base
            if at >= _FLUSH:
                # What follows this inode's start is untouched; padding before it is zero already.
                out(bytes(memoryview(buffer)[:at]))
                base += at
                at = 0
                buffer = bytearray(len(buffer))
            mode = inode.mode
            kind = mode & _IFMT
            size = inode.size
            nlink = inode.nlink
            form = _PLAIN
            union = 0
            tail = b""
            template = None
            if kind == _REG:
                content = inode.content
                if not size:
                    pass
                elif content is None:
                    form = _CHUNKED
                    if index in has_blocks:  # the map is in a block; its number shares the field
                        union = next_block & 0xFFFF0000
                        next_block += 1
                    else:
                        tail = _HOLE if size <= _ONE_CHUNK_MAX else _HOLE * layout.chunk_count(size)
                    union |= layout.chunk_bits(size) - layout.BLOCK_BITS
                    if type(area) is AreaTemplate:
                        template = area
                elif index in has_blocks:
                    blocks, length = has_blocks[index]
                    union = next_block
                    next_block += blocks
                    if length:
                        form, tail = _INLINE, content[-length:]
                else:
                    form, tail = _INLINE, content
            elif kind == _DIR:
                directory = next(directories)
                names, nids, types = self._entries(directory)
                nlink = types.count(layout.FT_DIR)
                chunks = split_into_blocks(names)
                blocks, length = has_blocks.get(index, (0, 0))
                if blocks:
                    union = next_block
                    next_block += blocks
                if blocks < len(chunks):
                    start, end = chunks[-1]
                    form = _INLINE
                    tail = dirents(names[start:end], nids[start:end], types[start:end])
                size = blocks * BLOCK_SIZE + len(tail)
            elif kind == _LNK:
                target = inode.payload
                assert target is not None
                size = len(target)
                if index in has_blocks:
                    union = next_block
                    next_block += 1
                else:
                    form, tail = _INLINE, target
            else:
                size = 0
                if kind in (_CHR, _BLK):
                    union = inode.rdev
            icount = 0 if area is None else (area.size - 8) >> 2
            if template is not None:
                pieces = (
                    template.before,
                    inode.digest,
                    template.between,
                    inode.payload,
                    template.after,
                )
                if is_extended:
                    template.extended.pack_into(
                        buffer, at, form | 1, icount, mode & 0xFFFF, 0, size, union, index,
                        inode.uid, inode.gid, inode.mtime_sec, inode.mtime_nsec, nlink, *pieces,
                    )  # fmt: skip
                    at += 64 + template.size
                else:
                    template.compact.pack_into(
                        buffer, at, form, icount, mode & 0xFFFF, nlink, size, 0, union, index,
                        inode.uid, inode.gid, 0, *pieces,
                    )  # fmt: skip
                    at += 32 + template.size
            else:
                if is_extended:
                    extended.pack_into(
                        buffer, at, form | 1, icount, mode & 0xFFFF, 0, size, union, index,
                        inode.uid, inode.gid, inode.mtime_sec, inode.mtime_nsec, nlink,
                    )  # fmt: skip
                    at += 64
                else:
                    compact.pack_into(
                        buffer, at, form, icount, mode & 0xFFFF, nlink, size, 0, union, index,
                        inode.uid, inode.gid, 0,
                    )  # fmt: skip
                    at += 32
                if area is not None:
                    assert isinstance(area, Area)
                    data = area.data
                    buffer[at : at + len(data)] = data
                    at += len(data)
            if tail:
                buffer[at : at + len(tail)] = tail
        out(bytes(memoryview(buffer)[: self._inodes_end - base]))

    def _emit_blocks(self, out: Out) -> None:
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
            elif inode.mode & _IFMT == _LNK:
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
        names = directory.names
        if self._plan.linked:
            indexes = self._plan.child_indexes(directory)
            nids = [self._nids[index] for index in indexes]
            types = bytearray(self._types[index] for index in indexes)
        else:
            end = directory.first + len(names)
            nids = self._nids[directory.first : end]
            types = self._types[directory.first : end]
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
