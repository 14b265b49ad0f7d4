"""The EROFS image of composefs: structures, constants, and the rules reader and writer share.

An image is one file, little endian, in blocks of 4096 bytes:

    0           header of composefs     magic, version of the header, flags, composefs version
    1024        superblock of EROFS     magic, nid of the root, inode count, oldest mtime, areas
    1152        inodes                  each on a multiple of 32; nid = offset / 32
                  32 or 64 bytes          compact (mtime is the superblock's) or extended
                  xattr area              body header, references to shared entries, own entries
                  inline tail             directory, symlink target, file content, chunk map
    after them  shared xattr entries    each used by more than one inode
    blocks      data                    what is too large for a tail, in whole blocks

The composefs version says how the tree was mapped onto EROFS; the structures are the same:

    0   composefs of old: compact inodes where they fit, breadth first, 256 whiteouts `00`..`ff`
        in the root so that the object directories stay hidden in the mount
    1   as 0, and directories with whiteouts are marked opaque=x (overlayfs of today wants that)
    2   composefs-rs's own: extended inodes only, depth first, no whiteouts in the root

A regular file with content inside the image is flat; one that lives in the object store is chunk
based with every chunk a hole, and two xattrs for overlayfs lead to its data:
`trusted.overlay.redirect` (`/xx/rest`) and `trusted.overlay.metacopy` (its fs-verity digest).
A `trusted.overlay.` xattr that the tree itself has is escaped by one more `overlay.`; a whiteout
of the tree is an empty regular file with the escaped xattr `whiteout`.

Specification: the kernel's `fs/erofs/erofs_fs.h`; composefs 1.0.8 for what composefs makes of it.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import Final

import xxhash

BLOCK_BITS: Final = 12
BLOCK_SIZE: Final = 1 << BLOCK_BITS
SLOT_BITS: Final = 5
SLOT_SIZE: Final = 1 << SLOT_BITS  # inodes start on multiples of this; nid counts them

# --- header and superblock -----------------------------------------------------------------------

COMPOSEFS_MAGIC: Final = 0xD078629A
COMPOSEFS_HEADER_VERSION: Final = 1
FLAG_HAS_ACL: Final = 1  # some inode has a POSIX ACL; without it the kernel mounts with noacl
VERSION_MIN: Final = 0
VERSION_MAX: Final = 1  # highest version that composefs writes
VERSION_COMPOSEFS_RS: Final = 2  # of composefs-rs alone

# magic, header version, flags, composefs version, 4 unused
HEADER: Final = Struct("<IIII16x")

SUPERBLOCK_OFFSET: Final = 1024
EROFS_MAGIC: Final = 0xE0F5E1E2
FEATURE_COMPAT_MTIME: Final = 2
FEATURE_COMPAT_XATTR_FILTER: Final = 4
FEATURE_INCOMPAT_CHUNKED: Final = 4  # composefs-rs may say so; composefs uses chunks and does not

# magic, checksum, feature_compat, blkszbits, extslots, root_nid, inos, build_time (signed in
# effect: an mtime), build_time_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume_name,
# feature_incompat, compression, extra_devices, devt_slotoff, dirblkbits, xattr_prefix_count,
# xattr_prefix_start, packed_nid, xattr_filter_reserved, reserved
SUPERBLOCK: Final = Struct("<IIIBBHQqIIII16s16sIHHHBBIQB23x")

INODES_OFFSET: Final = SUPERBLOCK_OFFSET + SUPERBLOCK.size
ROOT_NID_MAX: Final = 0xFFFE

# --- inodes --------------------------------------------------------------------------------------

# format, xattr_icount, mode, nlink, size, reserved, i_u, ino, uid, gid, reserved
INODE_COMPACT: Final = Struct("<HHHHIIIIHHI")
# format, xattr_icount, mode, reserved, size, i_u, ino, uid, gid, mtime, mtime_nsec, nlink, reserved
INODE_EXTENDED: Final = Struct("<HHHHQIIIIqII16x")
COMPACT_SIZE: Final = INODE_COMPACT.size
EXTENDED_SIZE: Final = INODE_EXTENDED.size

# i_format: bit 0 says extended, bits 1..3 the layout of the data; higher bits must be zero.
FORMAT_EXTENDED: Final = 1
FORMAT_LAYOUT_SHIFT: Final = 1
FORMAT_LAYOUT_MASK: Final = 7
FORMAT_MASK: Final = 0xF

LAYOUT_FLAT_PLAIN: Final = 0  # whole blocks from block i_u on
LAYOUT_FLAT_INLINE: Final = 2  # whole blocks from block i_u on, the last part after the inode
LAYOUT_CHUNK_BASED: Final = 4  # one u32 block number for a chunk after the inode

# i_u of a chunk based inode: low 5 bits are the bits of the chunk size above BLOCK_BITS.
CHUNK_BITS_MASK: Final = 0x1F
CHUNK_INDEXES: Final = 0x20  # 8-byte indexes instead of block numbers; composefs never sets it
CHUNK_BITS_MAX: Final = BLOCK_BITS + CHUNK_BITS_MASK
CHUNK_HOLE: Final = 0xFFFFFFFF
CHUNK_COUNT_MAX: Final = 1024  # composefs keeps the map within one block
FILE_SIZE_MAX: Final = CHUNK_COUNT_MAX << CHUNK_BITS_MAX  # 2^53, of a file without content

# --- directories ---------------------------------------------------------------------------------

# nid, offset of the name in its block, file type, reserved; the first offset / 12 is the count.
DIRENT: Final = Struct("<QHBB")
DIRENT_SIZE: Final = DIRENT.size

FT_UNKNOWN: Final = 0
FT_REG: Final = 1
FT_DIR: Final = 2
FT_CHR: Final = 3
FT_BLK: Final = 4
FT_FIFO: Final = 5
FT_SOCK: Final = 6
FT_LNK: Final = 7

FILE_TYPES: Final[dict[int, int]] = {
    stat.S_IFREG: FT_REG,
    stat.S_IFDIR: FT_DIR,
    stat.S_IFCHR: FT_CHR,
    stat.S_IFBLK: FT_BLK,
    stat.S_IFIFO: FT_FIFO,
    stat.S_IFSOCK: FT_SOCK,
    stat.S_IFLNK: FT_LNK,
}
MODE_TYPES: Final[dict[int, int]] = {kind: mode for mode, kind in FILE_TYPES.items()}

# --- extended attributes -------------------------------------------------------------------------

# name filter, number of shared references; then a u32 a reference, then the own entries
XATTR_BODY: Final = Struct("<IB7x")
XATTR_BODY_SIZE: Final = XATTR_BODY.size
# length of the name without prefix, index of the prefix, length of the value; then name and value
XATTR_ENTRY: Final = Struct("<BBH")
XATTR_ENTRY_SIZE: Final = XATTR_ENTRY.size
XATTR_SHARED_MAX: Final = 128  # composefs makes no more references than these for one inode
XATTR_FILTER_SEED: Final = 0x25BBE08F
XATTR_FILTER_ALL: Final = 0xFFFFFFFF
XATTR_LONG_PREFIX: Final = 0x80  # index of an image's own long prefix; composefs has none

# Prefix of a full name by index; 5 (`lustre.`) is read and never written.
XATTR_PREFIXES: Final[tuple[bytes, ...]] = (
    b"",
    b"user.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.",
    b"lustre.",
    b"security.",
)
_WRITTEN_PREFIXES: Final = tuple(
    (index, prefix) for index, prefix in enumerate(XATTR_PREFIXES) if index not in (0, 5)
)


@lru_cache(maxsize=4096)
def split_xattr_name(name: bytes) -> tuple[int, bytes]:
    """The (prefix index, rest) of a full xattr name, as composefs chooses them."""
    for index, prefix in _WRITTEN_PREFIXES:
        if name.startswith(prefix):
            return index, name[len(prefix) :]
    return 0, name


@lru_cache(maxsize=4096)
def xattr_filter_bit(name: bytes) -> int:
    """The bit of the name filter that the full xattr `name` clears."""
    return xattr_filter_bit_of(*split_xattr_name(name))


def xattr_filter_bit_of(index: int, rest: bytes) -> int:
    """The bit for a name that is split already."""
    hashed: int = xxhash.xxh32_intdigest(rest, seed=XATTR_FILTER_SEED + index)
    return 1 << (hashed & 31)


def xattr_area_size(icount: int) -> int:
    """Bytes of an inode's xattr area, from its `i_xattr_icount`."""
    return XATTR_BODY_SIZE + (icount - 1) * 4 if icount else 0


# Names that overlayfs reads from the image, or that stand for a whiteout of the tree.
OVERLAY_PREFIX: Final = b"trusted.overlay."
OVERLAY_ESCAPED_PREFIX: Final = b"trusted.overlay.overlay."
OVERLAY_REDIRECT: Final = b"trusted.overlay.redirect"
OVERLAY_METACOPY: Final = b"trusted.overlay.metacopy"
OVERLAY_OPAQUE: Final = b"trusted.overlay.opaque"
ESCAPED_WHITEOUT: Final = b"trusted.overlay.overlay.whiteout"
ESCAPED_WHITEOUTS: Final = b"trusted.overlay.overlay.whiteouts"
ESCAPED_OPAQUE: Final = b"trusted.overlay.overlay.opaque"
USER_WHITEOUT: Final = b"user.overlay.whiteout"
USER_WHITEOUTS: Final = b"user.overlay.whiteouts"
USER_OPAQUE: Final = b"user.overlay.opaque"
ACL_ACCESS: Final = b"system.posix_acl_access"
ACL_DEFAULT: Final = b"system.posix_acl_default"


def tree_xattr_name(name: bytes) -> bytes | None:
    """The tree's name of an image's xattr; None for one that composefs added for overlayfs.

    ESCAPED_WHITEOUT of a regular file makes it a whiteout; that is the caller's to see.
    """
    if name.startswith(OVERLAY_ESCAPED_PREFIX):
        if name == ESCAPED_WHITEOUTS:
            return None
        return OVERLAY_PREFIX + name[len(OVERLAY_ESCAPED_PREFIX) :]
    if name.startswith(OVERLAY_PREFIX) or name in (USER_WHITEOUT, USER_WHITEOUTS):
        return None
    return name


# Value of OVERLAY_METACOPY: version 0, own length, flags 0, hash algorithm of fs-verity; digest.
METACOPY: Final = Struct("<BBBB")
METACOPY_ALGORITHMS: Final[dict[int, int]] = {32: 1, 64: 2}  # digest size -> FS_VERITY_HASH_ALG_*


def metacopy_value(digest: bytes | None) -> bytes:
    """The metacopy xattr of a file whose object has this fs-verity digest; empty without one."""
    if digest is None:
        return b""
    algorithm = METACOPY_ALGORITHMS[len(digest)]
    return METACOPY.pack(0, METACOPY.size + len(digest), 0, algorithm) + digest


def metacopy_digest(value: bytes) -> bytes | None:
    """The digest in a metacopy xattr; None where it has none (or is not well-formed)."""
    if len(value) < METACOPY.size:
        return None
    version, length, _flags, algorithm = METACOPY.unpack_from(value)
    digest = value[METACOPY.size :]
    if version != 0 or length != len(value) or METACOPY_ALGORITHMS.get(len(digest)) != algorithm:
        return None
    return digest


# --- limits of composefs -------------------------------------------------------------------------

NAME_MAX: Final = 255
PATH_MAX: Final = 1 << 20  # ours: bytes of a path in a tree, 4,000 directories with longest names
SYMLINK_MAX: Final = 4095  # bytes of a target, and of a payload
CONTENT_MAX: Final = 5000  # bytes of a file inside the image
XATTR_NAME_MAX: Final = 255
XATTR_VALUE_MAX: Final = 0xFFFF
XATTR_AREA_MAX: Final = 0x7FFF  # of one inode, if nothing were shared


def xattrs_size(xattrs: Mapping[bytes, bytes]) -> int:
    """What composefs counts against XATTR_AREA_MAX: each entry as if its padding were the worst."""
    return (
        XATTR_BODY_SIZE + sum(map(len, xattrs)) + sum(map(len, xattrs.values())) + 7 * len(xattrs)
    )


def chunk_bits(size: int) -> int:
    """log2 of the chunk size for a file of `size` > 0 bytes: one chunk if that can be."""
    return min(max((size - 1).bit_length(), BLOCK_BITS), CHUNK_BITS_MAX)


def chunk_count(size: int) -> int:
    """Number of chunks of a file of `size` bytes."""
    return (size + (1 << chunk_bits(size)) - 1) >> chunk_bits(size) if size else 0
