"""Reading an EROFS image of composefs in place: nothing is parsed before it is asked for.

`ErofsImage` works on a buffer, usually an mmap of the image, and keeps no tree: an inode is decoded
when it is named by its nid, a name is found by binary search in its directory. So opening an image
of a million files costs the check of its superblock. The layout is that of
`cfsrepo.formats.erofs.layout`.

An image may be damaged or hostile. Every access is checked against the buffer, sizes and counts are
bounded by it, nothing recurses; damage is an `InputError` that names the image and the inode. What
is checked is what is read: an image with a bad inode can be used around that inode. A directory may
name any inode, its own parent too: a walk over a whole tree must remember what it has seen.

The buffer must not shrink while it is mapped (objects of a repository never do).
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from cfsrepo.errors import InputError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import entry_name, find_entry, parse_entries
from cfsrepo.formats.erofs.layout import (
    BLOCK_BITS,
    BLOCK_SIZE,
    COMPACT_SIZE,
    DIRENT_SIZE,
    EXTENDED_SIZE,
    FILE_TYPES,
    FORMAT_EXTENDED,
    FORMAT_LAYOUT_SHIFT,
    INODE_COMPACT,
    INODE_EXTENDED,
    LAYOUT_CHUNK_BASED,
    LAYOUT_FLAT_INLINE,
    LAYOUT_FLAT_PLAIN,
    SLOT_BITS,
    XATTR_BODY,
    XATTR_BODY_SIZE,
    XATTR_ENTRY,
    XATTR_ENTRY_SIZE,
    XATTR_PREFIXES,
)
from cfsrepo.formats.erofs.superblock import Buffer, read_superblock

_SIZE_MAX = (1 << 63) - 1
_LAYOUTS = frozenset({LAYOUT_FLAT_PLAIN, LAYOUT_FLAT_INLINE, LAYOUT_CHUNK_BASED})
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_new_tuple = tuple.__new__
_PATH_MAX = 4096
_FIRST_NID = layout.INODES_OFFSET >> SLOT_BITS

_INDEX_USER = 1
_RESERVED = b"cfs."  # below `user.`: records of bare-user trees
_INDEX_TRUSTED = 4
_TRUSTED = XATTR_PREFIXES[_INDEX_TRUSTED]
# The overlay's own names as they stand in an entry, without the prefix `trusted.`.
_OWN = layout.OVERLAY_PREFIX[len(_TRUSTED) :]
_ESCAPED = layout.OVERLAY_ESCAPED_PREFIX[len(_TRUSTED) :]
# Prefixes that the kernel's EROFS knows; it passes over entries with any other.
_KERNEL_PREFIXES = (1, 2, 3, 4, 6)


class InodeInfo(NamedTuple):
    """What an inode says about itself. Sizes in bytes, times since the epoch (also before it)."""

    nid: int
    ino: int  # the 32-bit number in the inode; unique in images of composefs
    mode: int
    uid: int
    gid: int
    rdev: int  # as makedev(3) makes it; 0 for anything but block and character devices
    size: int
    nlink: int
    mtime_sec: int
    mtime_nsec: int
    layout: int  # layout.LAYOUT_*
    i_u: int  # first data block, device number or chunk format, by type and layout
    xattr_offset: int  # of the xattr area in the image
    xattr_icount: int  # its size, as layout.xattr_area_size() reads it


@dataclass(frozen=True, slots=True)
class Backing:
    """Where the content of a regular file is that is not inside the image."""

    path: bytes  # below the object directory, `xx/rest`; as the image says it: to be distrusted
    digest: bytes | None  # its fs-verity digest, 32 bytes sha256 or 64 bytes sha512


class ErofsImage:
    """A composefs image of version 0, 1 or 2 (composefs-rs's) in `data`; `name` is for errors.

    Raises `InputError` where the header or superblock is not that of a composefs image, or the
    buffer is shorter than the image says.
    """

    def __init__(self, data: Buffer, name: str = "image") -> None:
        self.data = data
        self.name = name
        superblock = read_superblock(data, name)
        self.version = superblock.version  # of composefs: layout.VERSION_*
        self.root_nid = superblock.root_nid
        self.inode_count = superblock.inode_count
        self.block_count = superblock.block_count
        self._xattr_base = superblock.xattr_base
        self._length = len(data)
        self._build_time_sec = superblock.build_time_sec
        self._build_time_nsec = superblock.build_time_nsec
        if not stat.S_ISDIR(self.inode(self.root_nid).mode):
            raise InputError(f"{name}: the root is not a directory")

    def inode(self, nid: int) -> InodeInfo:
        """The inode with this number."""
        # The hot path of every server: hence the local names, and no constructor at the end.
        data = self.data
        offset = nid << SLOT_BITS
        try:
            if data[offset] & FORMAT_EXTENDED:
                form, icount, mode, _, size, i_u, ino, uid, gid, sec, nsec, nlink = (
                    INODE_EXTENDED.unpack_from(data, offset)
                )
                end = offset + EXTENDED_SIZE
            else:
                form, icount, mode, nlink, size, _, i_u, ino, uid, gid, _ = (
                    INODE_COMPACT.unpack_from(data, offset)
                )
                sec = self._build_time_sec
                nsec = self._build_time_nsec
                end = offset + COMPACT_SIZE
        except (IndexError, struct.error):
            self._bad_inode(nid, "lies outside the image")
        kind = form >> FORMAT_LAYOUT_SHIFT
        if kind not in _LAYOUTS or nid < _FIRST_NID:
            self._bad_inode(nid, "is damaged (no known format)")
        file_type = mode & 0o170000
        if file_type not in FILE_TYPES or size > _SIZE_MAX:
            self._bad_inode(nid, "is damaged (no known file type, or size out of range)")
        rdev = i_u if file_type in _DEVICES else 0
        return _new_tuple(
            InodeInfo,
            (nid, ino, mode, uid, gid, rdev, size, nlink, sec, nsec, kind, i_u, end, icount),
        )

    def nid_after(self, nid: int) -> int:
        """Where the next inode begins in an image whose inodes are in a row, for guesses.

        Makers of images pad with zeros so that a tail does not cross a block.
        """
        inode = self.inode(nid)
        end = inode.xattr_offset + layout.xattr_area_size(inode.xattr_icount)
        if inode.layout == LAYOUT_CHUNK_BASED:
            bits = BLOCK_BITS + (inode.i_u & layout.CHUNK_BITS_MASK)
            end = ((end + 3) & ~3) + 4 * ((inode.size + (1 << bits) - 1) >> bits)
        elif inode.layout == LAYOUT_FLAT_INLINE:
            end += inode.size % BLOCK_SIZE
        following = (end + (1 << SLOT_BITS) - 1) >> SLOT_BITS
        for slot in range(following, following + (BLOCK_SIZE >> SLOT_BITS)):
            if any(self.data[slot << SLOT_BITS : (slot + 1) << SLOT_BITS]):
                return slot
        return following

    # --- directories -----------------------------------------------------------------------------

    def lookup(self, dir_nid: int, name: bytes) -> int | None:
        """The nid of entry `name` of a directory; None where there is none.

        Raises `NotADirectoryError` when `dir_nid` is not a directory.
        """
        directory = self._directory(dir_nid)
        # The last block whose first name is not after `name`, then the entry inside it.
        low, high = 0, (directory.size + BLOCK_SIZE - 1) >> BLOCK_BITS
        found = b""
        while low < high:
            middle = (low + high) >> 1
            block = self._block(directory, middle)
            if entry_name(block, 0) <= name:
                found = block
                low = middle + 1
            else:
                high = middle
        if not found:
            return None
        try:
            return find_entry(found, name)
        except InputError as damage:
            self._bad_inode(dir_nid, str(damage))

    def lookup_path(self, path: bytes) -> int | None:
        """The nid at `path`, taken from the root; symlinks are not followed; None if not there.

        Empty components and `.` count for nothing, `..` goes to the parent, as in the image.
        """
        nid: int | None = self.root_nid
        for name in path.split(b"/"):
            if nid is None:
                return None
            if name in (b"", b"."):
                continue
            if not stat.S_ISDIR(self.inode(nid).mode):
                return None
            nid = self.lookup(nid, name)
        return nid

    def readdir(self, nid: int, start: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
        """Entries of a directory, in the image's order (by name), `.` and `..` among them.

        Yields (next position, name, nid, file type as layout.FT_*). A position is the offset of
        the entry in the directory, 0 is the first; any next position is a valid `start`.
        """
        directory = self._directory(nid)
        first = start >> BLOCK_BITS
        skip = ((start & (BLOCK_SIZE - 1)) + DIRENT_SIZE - 1) // DIRENT_SIZE
        for number in range(first, (directory.size + BLOCK_SIZE - 1) >> BLOCK_BITS):
            block = self._block(directory, number)
            entries = self._entries(directory, block)
            position = number << BLOCK_BITS
            for entry_nid, name, kind in entries[skip:-1]:
                skip += 1
                yield position + skip * DIRENT_SIZE, name, entry_nid, kind
            if skip < len(entries):
                entry_nid, name, kind = entries[-1]
                yield position + BLOCK_SIZE, name, entry_nid, kind
            skip = 0

    def entry_blocks(self, directory: InodeInfo) -> Iterator[list[tuple[int, bytes, int]]]:
        """What `readdir` yields, block by block, for walks over the whole image.

        Lists of (nid, name, file type) of an inode that is known to be a directory.
        """
        for number in range((directory.size + BLOCK_SIZE - 1) >> BLOCK_BITS):
            yield self._entries(directory, self._block(directory, number))

    def _directory(self, nid: int) -> InodeInfo:
        directory = self.inode(nid)
        if not stat.S_ISDIR(directory.mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", f"{self.name}: inode {nid}")
        return directory

    def _block(self, inode: InodeInfo, number: int) -> bytes:
        """Block `number` of the flat data of `inode`; the last may be short. Bounds are checked."""
        last = (inode.size - 1) >> BLOCK_BITS
        length = BLOCK_SIZE if number < last else inode.size - (last << BLOCK_BITS)
        if inode.layout == LAYOUT_FLAT_INLINE and number == last:
            offset = inode.xattr_offset + layout.xattr_area_size(inode.xattr_icount)
        elif inode.layout == LAYOUT_CHUNK_BASED:
            self._bad_inode(inode.nid, "has its data outside the image, which its type forbids")
        else:
            offset = (inode.i_u + number) << BLOCK_BITS
        return self._bytes(inode, offset, length)

    def _bytes(self, inode: InodeInfo, offset: int, length: int) -> bytes:
        end = offset + length
        if end > self._length:
            self._bad_inode(inode.nid, "has data outside the image")
        return bytes(self.data[offset:end])

    def _entries(self, directory: InodeInfo, block: bytes) -> list[tuple[int, bytes, int]]:
        """(nid, name, file type) of the entries of a block, all names checked."""
        try:
            return parse_entries(block)
        except InputError as damage:
            self._bad_inode(directory.nid, str(damage))

    # --- extended attributes ---------------------------------------------------------------------

    def raw_xattrs(self, nid: int) -> dict[bytes, bytes]:
        """All xattrs as the image has them, by full name: the own entries, then the shared ones."""
        return {
            XATTR_PREFIXES[index] + rest: bytes(self.data[start:end])
            for index, rest, start, end in self._xattr_entries(self.inode(nid))
        }

    def xattrs(self, nid: int, *, trusted: bool = True) -> dict[bytes, bytes]:
        """The xattrs that a mount shows: overlayfs's own hidden, escaped ones unescaped.

        `user.cfs.*` is hidden, too: who copies the files would copy a forged owner along.

        `trusted`: include `trusted.*`, which the kernel shows to CAP_SYS_ADMIN only.
        """
        return {
            XATTR_PREFIXES[index] + rest: bytes(self.data[start:end])
            for index, rest, start, end in self._visible_entries(self.inode(nid), trusted)
        }

    def has_visible_xattrs(self, nid: int, *, trusted: bool = True) -> bool:
        """Whether `xattrs()` has any."""
        inode = self.inode(nid)
        if not inode.xattr_icount:
            return False
        return next(self._visible_entries(inode, trusted), None) is not None

    def shared_xattr(self, inode: InodeInfo, reference: int) -> tuple[int, bytes, bytes]:
        """(index in layout.XATTR_PREFIXES, rest of the name, value) of what `inode` refers to."""
        offset = self._xattr_base + 4 * reference
        index, rest, start, end = self._xattr_entry(inode, offset, self._length)
        return index, rest, bytes(self.data[start:end])

    def _visible_entries(
        self, inode: InodeInfo, trusted: bool
    ) -> Iterator[tuple[int, bytes, int, int]]:
        for index, rest, start, end in self._xattr_entries(inode):
            if index == _INDEX_TRUSTED:
                if not trusted:
                    continue
                if rest.startswith(_OWN):
                    if rest.startswith(_ESCAPED):
                        yield index, rest[len(_OWN) :], start, end
                    continue
            elif index not in _KERNEL_PREFIXES or (
                index == _INDEX_USER and rest.startswith(_RESERVED)
            ):
                continue
            yield index, rest, start, end

    def _xattr_entries(self, inode: InodeInfo) -> Iterator[tuple[int, bytes, int, int]]:
        """(prefix index, rest of the name, start and end of the value in the image) of xattrs."""
        if not inode.xattr_icount:
            return
        offset = inode.xattr_offset
        end = offset + layout.xattr_area_size(inode.xattr_icount)
        if end > self._length:
            self._bad_inode(inode.nid, "has xattrs outside the image")
        _filter, shared_count = XATTR_BODY.unpack_from(self.data, offset)
        shared = offset + XATTR_BODY_SIZE
        offset = shared + 4 * shared_count
        if offset > end:
            self._bad_inode(inode.nid, "has damaged xattrs")
        while offset < end:
            entry = self._xattr_entry(inode, offset, end)
            yield entry
            offset = (entry[3] + 3) & ~3
        for (reference,) in struct.iter_unpack("<I", self.data[shared : shared + 4 * shared_count]):
            yield self._xattr_entry(inode, self._xattr_base + 4 * reference, self._length)

    def _xattr_entry(
        self, inode: InodeInfo, offset: int, limit: int
    ) -> tuple[int, bytes, int, int]:
        start = offset + XATTR_ENTRY_SIZE
        if start > limit:
            self._bad_inode(inode.nid, "has damaged xattrs")
        name_length, index, value_length = XATTR_ENTRY.unpack_from(self.data, offset)
        value = start + name_length
        end = value + value_length
        if end > limit or index >= len(XATTR_PREFIXES):
            self._bad_inode(inode.nid, "has damaged xattrs")
        return index, bytes(self.data[start:value]), value, end

    # --- content ---------------------------------------------------------------------------------

    def readlink(self, nid: int) -> bytes:
        """The target of a symlink. Raises `OSError` (EINVAL) when `nid` is none."""
        inode = self.inode(nid)
        if not stat.S_ISLNK(inode.mode):
            raise OSError(errno.EINVAL, "not a symlink", f"{self.name}: inode {nid}")
        return self.link_target(inode)

    def link_target(self, inode: InodeInfo) -> bytes:
        """The target of an inode that is known to be a symlink."""
        if not 0 < inode.size < _PATH_MAX:
            self._bad_inode(inode.nid, "is a symlink of impossible length")
        target = self._block(inode, 0)
        if b"\0" in target:
            self._bad_inode(inode.nid, "is a symlink with a NUL in its target")
        return target

    def inline_data(self, nid: int) -> bytes | None:
        """The content of a regular file that is inside the image (b"" for an empty one).

        None when it is outside: `backing()` says where.
        """
        inode = self.inode(nid)
        if inode.layout == LAYOUT_CHUNK_BASED:
            return None
        return self.read_inline(inode, 0, inode.size)

    def read_inline(self, inode: InodeInfo, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` of a regular file whose content is in the image."""
        if not stat.S_ISREG(inode.mode):
            raise OSError(errno.EINVAL, "not a regular file", f"{self.name}: inode {inode.nid}")
        end = min(offset + size, inode.size)
        if offset >= end:
            return b""
        # Whole blocks are contiguous; the last one may stand elsewhere.
        last = (inode.size - 1) >> BLOCK_BITS if inode.layout == LAYOUT_FLAT_INLINE else None
        if last is None or end <= last << BLOCK_BITS:
            if inode.layout == LAYOUT_CHUNK_BASED:
                self._bad_inode(inode.nid, "has its content outside the image")
            base = inode.i_u << BLOCK_BITS
            return self._bytes(inode, base + offset, end - offset)
        tail = self._block(inode, last)
        tail_start = last << BLOCK_BITS
        if offset >= tail_start:
            return tail[offset - tail_start : end - tail_start]
        base = inode.i_u << BLOCK_BITS
        return self._bytes(inode, base + offset, tail_start - offset) + tail[: end - tail_start]

    def backing(self, nid: int) -> Backing | None:
        """Where the content of a regular file outside the image is; None when it has none there.

        The path is what the image says without its leading `/`; it may be anything.
        """
        return self.backing_of(self.inode(nid))

    def backing_of(self, inode: InodeInfo) -> Backing | None:
        """`backing()` of an inode that has been read already."""
        redirect: bytes | None = None
        digest: bytes | None = None
        for index, rest, start, end in self._xattr_entries(inode):
            if index != _INDEX_TRUSTED or not rest.startswith(_OWN):
                continue
            name = _TRUSTED + rest
            if name == layout.OVERLAY_REDIRECT:
                redirect = bytes(self.data[start:end])
            elif name == layout.OVERLAY_METACOPY:
                digest = layout.metacopy_digest(bytes(self.data[start:end]))
        if redirect is None:
            return None
        return Backing(redirect.removeprefix(b"/"), digest)

    def is_sparse(self, nid: int) -> bool:
        """Whether a chunk based file is all holes: its content is elsewhere, or zeros."""
        inode = self.inode(nid)
        bits = BLOCK_BITS + (inode.i_u & layout.CHUNK_BITS_MASK)
        if inode.layout != LAYOUT_CHUNK_BASED or inode.i_u & layout.CHUNK_INDEXES:
            return False
        length = 4 * ((inode.size + (1 << bits) - 1) >> bits)
        offset = inode.xattr_offset + layout.xattr_area_size(inode.xattr_icount)
        chunk_map = self._bytes(inode, (offset + 3) & ~3, length)
        return chunk_map.count(0xFF) == length

    # --- errors ----------------------------------------------------------------------------------

    def _bad_inode(self, nid: int, what: str) -> NoReturn:
        raise InputError(f"{self.name}: inode {nid} {what}")
