"""Where each inode of an image lies, and what of its data goes into blocks of its own.

Three rules are composefs's own choice:

- the tail of an inode lies within one block; an inode is moved up in slots until it does, or the
  tail becomes a data block where that is hopeless;
- a symlink's inode lies in the same block as its tail as well (old kernels want that);
- a directory's or a file's last part goes into the tail only up to half a block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import TAIL_MAX
from cfsrepo.formats.erofs.layout import BLOCK_SIZE
from cfsrepo.formats.erofs.plan import Plan
from cfsrepo.formats.erofs.xattrareas import Area
from cfsrepo.formats.tree import Inode

_ONE_CHUNK_MAX = 1 << layout.CHUNK_BITS_MAX
_LNK = 0o12
# File type of a directory entry by mode >> 12; 0 where there is none.
_TYPES = bytes(layout.FILE_TYPES.get(kind << 12, 0) for kind in range(16))

# What an inode takes: (size, nlink, data blocks, bytes of the tail).
_Measure = tuple[int, int, int, int]


class Placement:
    """The places of the inodes of `plan`, whose xattr areas are `areas`.

    Raises InputError for an inode that no image can hold, LimitError where it is only too large;
    both name the path.
    """

    def __init__(self, plan: Plan, areas: list[Area]) -> None:
        self._plan = plan
        self._directories = iter(plan.directories)
        # By index of the inode:
        self.nids = array("Q")
        self.extended = bytearray(len(plan.inodes))  # 1 where the inode has the extended form
        self.types = bytearray(len(plan.inodes))  # layout.FT_*
        self.blocks: dict[int, tuple[int, int]] = {}
        """(number of blocks, bytes of the tail) of inodes with data blocks."""
        self.end = self._place(areas)
        """Where the inodes end, in bytes."""
        if self.nids[0] > layout.ROOT_NID_MAX:
            raise LimitError("the root directory's inode lies too far behind")

    def _place(self, areas: list[Area]) -> int:
        plan = self._plan
        min_sec, min_nsec = plan.min_mtime
        nids, extended, types = self.nids, self.extended, self.types
        measures: list[Callable[[int, Inode], _Measure]] = [self._measure_other] * 16
        measures[0o10] = self._measure_file
        measures[0o04] = self._measure_directory
        measures[_LNK] = self._measure_symlink
        pos = layout.INODES_OFFSET
        for index, (inode, area) in enumerate(zip(plan.inodes, areas, strict=True)):
            kind = inode.mode >> 12 & 15
            types[index] = _TYPES[kind]
            size, nlink, blocks, tail = measures[kind](index, inode)
            head = area.size
            if (
                inode.mtime_nsec == min_nsec
                and inode.mtime_sec == min_sec
                and inode.uid <= 0xFFFF
                and inode.gid <= 0xFFFF
                and size <= 0xFFFFFFFF
                and nlink <= 0xFFFF
            ):
                head += layout.COMPACT_SIZE
            else:
                head += layout.EXTENDED_SIZE
                extended[index] = 1
            pos = (pos + 31) & ~31
            if kind == _LNK:
                pos, blocks, tail = _fit_symlink(pos, head, tail)
            elif tail and (pos + head) % BLOCK_SIZE + tail > BLOCK_SIZE:
                pos, blocks, tail = _fit_tail(pos, head, blocks, tail)
            if blocks:
                self.blocks[index] = blocks, tail
            nids.append(pos >> layout.SLOT_BITS)
            pos += head + tail
        return (pos + 31) & ~31

    # --- by file type ----------------------------------------------------------------------------

    def _measure_file(self, index: int, inode: Inode) -> _Measure:
        size, content = inode.size, inode.content
        if inode.entries is not None:
            raise self._bad_mode(index, inode)
        if not size:
            return 0, inode.nlink, 0, 0
        if content is None:
            if inode.payload is not None or size > layout.FILE_SIZE_MAX:
                self._check_object(index, inode)
            chunks = 1 if size <= _ONE_CHUNK_MAX else layout.chunk_count(size)
            return size, inode.nlink, 0, 4 * chunks
        if len(content) != size:
            raise InputError(
                f"{self._plan.path(index)}: content of {len(content)} bytes in a file of {size}"
            )
        if size > layout.CONTENT_MAX:
            raise LimitError(
                f"{self._plan.path(index)}: content of {size} bytes is over {layout.CONTENT_MAX}"
            )
        blocks, tail = divmod(size, BLOCK_SIZE)
        return (
            (size, inode.nlink, blocks + 1, 0)
            if tail > TAIL_MAX
            else (size, inode.nlink, blocks, tail)
        )

    def _measure_directory(self, index: int, inode: Inode) -> _Measure:
        if inode.entries is None:
            raise self._bad_mode(index, inode)
        directory = next(self._directories)
        blocks, tail = directory.blocks_and_tail()
        nlink = 2 if len(directory.names) < 0xFFFD else directory.link_count()
        return blocks * BLOCK_SIZE + tail, nlink, blocks, tail

    def _measure_symlink(self, index: int, inode: Inode) -> _Measure:
        target = inode.payload
        if inode.entries is not None:
            raise self._bad_mode(index, inode)
        if not target or len(target) > layout.SYMLINK_MAX or b"\0" in target:
            raise InputError(
                f"{self._plan.path(index)}: a symlink's target must have 1 to "
                f"{layout.SYMLINK_MAX} bytes and no NUL"
            )
        return len(target), inode.nlink, 0, len(target)

    def _measure_other(self, index: int, inode: Inode) -> _Measure:
        """A device, FIFO or socket; or a mode without a valid file type."""
        if inode.entries is not None or not self.types[index]:
            raise self._bad_mode(index, inode)
        return inode.size, inode.nlink, 0, 0

    # --- refusals --------------------------------------------------------------------------------

    def _bad_mode(self, index: int, inode: Inode) -> InputError:
        return InputError(f"{self._plan.path(index)}: mode {inode.mode:o} does not fit the file")

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


# --- making room ---------------------------------------------------------------------------------

# Both return (position of the inode, data blocks, bytes of the tail) for an inode with its xattrs
# of `head` bytes that would lie at `pos`.


def _fit_symlink(pos: int, head: int, tail: int) -> tuple[int, int, int]:
    end = pos + head + tail - 1
    if pos // BLOCK_SIZE != end // BLOCK_SIZE:
        pos = (pos + BLOCK_SIZE - 1) & -BLOCK_SIZE
    return (pos, 1, 0) if head + tail >= BLOCK_SIZE else (pos, 0, tail)


def _fit_tail(pos: int, head: int, blocks: int, tail: int) -> tuple[int, int, int]:
    """For a tail that does not fit into the rest of the block that it would begin in."""
    pad = (BLOCK_SIZE - (pos + head) % BLOCK_SIZE + 31) & ~31
    if tail <= BLOCK_SIZE - (pos + head + pad) % BLOCK_SIZE:
        return pos + pad, blocks, tail
    return (pos + BLOCK_SIZE - 1) & -BLOCK_SIZE, blocks + 1, 0
