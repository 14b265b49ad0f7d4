"""The header and the superblock of an image: what they say, and what of it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap

from cfsrepo.errors import InputError
from cfsrepo.formats.erofs import layout

Buffer = bytes | bytearray | memoryview | mmap


@dataclass(frozen=True, slots=True)
class Superblock:
    """What an image says about itself as a whole. Offsets and sizes in bytes."""

    version: int  # of composefs: layout.VERSION_*
    root_nid: int
    inode_count: int
    build_time_sec: int  # the mtime of all compact inodes
    build_time_nsec: int
    block_count: int  # the size of the image in blocks
    xattr_base: int  # references to shared xattrs count from here, in units of 4


def read_superblock(data: Buffer, name: str) -> Superblock:
    """The superblock of the image in `data`; `name` is for errors.

    Raises InputError where the image is not one of composefs, has what composefs never makes (no
    half-understood file systems), or is shorter than it says.
    """
    if len(data) < layout.INODES_OFFSET:
        raise InputError(f"{name}: too short for an EROFS image of composefs")
    version = _read_header(data, name)
    (
        magic,
        _checksum,
        _compat,
        block_bits,
        extra_slots,
        root_nid,
        inode_count,
        build_time_sec,
        build_time_nsec,
        block_count,
        meta_block,
        xattr_block,
        _uuid,
        _volume,
        incompat,
        compression,
        extra_devices,
        _devt_slotoff,
        dir_block_bits,
        prefix_count,
        _prefix_start,
        packed_nid,
        _reserved,
    ) = layout.SUPERBLOCK.unpack_from(data, layout.SUPERBLOCK_OFFSET)
    if magic != layout.EROFS_MAGIC:
        raise InputError(f"{name}: no EROFS superblock")
    if block_bits != layout.BLOCK_BITS or dir_block_bits or extra_slots or meta_block:
        raise InputError(f"{name}: EROFS geometry that composefs does not use")
    unknown = incompat & ~layout.FEATURE_INCOMPAT_CHUNKED
    if unknown or compression or extra_devices or prefix_count or packed_nid:
        raise InputError(f"{name}: EROFS features that composefs does not use")
    size = block_count << layout.BLOCK_BITS
    if size > len(data):
        raise InputError(
            f"{name}: cut short: {size} bytes long by its superblock, {len(data)} in fact"
        )
    return Superblock(
        version,
        root_nid,
        inode_count,
        build_time_sec,
        build_time_nsec,
        block_count,
        xattr_block << layout.BLOCK_BITS,
    )


def _read_header(data: Buffer, name: str) -> int:
    """The composefs version in composefs's own header."""
    magic, header_version, _flags, version = layout.HEADER.unpack_from(data, 0)
    if magic != layout.COMPOSEFS_MAGIC:
        raise InputError(f"{name}: no composefs header: not an image of composefs")
    if header_version != layout.COMPOSEFS_HEADER_VERSION:
        raise InputError(f"{name}: composefs header of unknown version {header_version}")
    if version > layout.VERSION_COMPOSEFS_RS:
        raise InputError(f"{name}: composefs version {version} is not known")
    return int(version)
