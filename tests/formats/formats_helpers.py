"""Trees for the tests of dumps and images, made at random."""

from __future__ import annotations

import io
import random
import stat
import struct
from typing import TypeVar

from hypothesis import strategies as st

from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.dumpwriter import write_dump
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.tree import Inode
from cfsrepo.images.dump import dump_image

HEX = "0123456789abcdef"


def image_bytes(root: Inode, min_version: int = 1, max_version: int = 1) -> bytes:
    parts: list[bytes] = []
    write_image(root, parts.append, min_version=min_version, max_version=max_version)
    return b"".join(parts)


def dump_bytes(root: Inode, min_version: int = 1, max_version: int = 1, **options: bool) -> bytes:
    parts: list[bytes] = []
    write_dump(root, parts.append, min_version=min_version, max_version=max_version, **options)
    return b"".join(parts)


def dump_of_image(image: bytes, names: list[bytes] | None = None) -> bytes:
    parts: list[bytes] = []
    dump_image(ErofsImage(image), parts.append, names)
    return b"".join(parts)


def tree_of(dump: bytes, *, strict: bool = False) -> Inode:
    return read_dump(io.BytesIO(dump), "test.dump", strict=strict)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def dirent_of(data: bytes, path: bytes) -> int:
    """Offset in `data` of the directory entry of `path`."""
    image = ErofsImage(data)
    parent, _, _ = path.rpartition(b"/")
    nid, above = image.lookup_path(path), image.lookup_path(parent)
    assert nid is not None
    assert above is not None
    start = (above << 5) if above != image.root_nid else 0
    at = data.index(struct.pack("<Q", nid), start)
    while data[at + 10] not in range(1, 8):
        at = data.index(struct.pack("<Q", nid), at + 1)
    return at


# --- random trees --------------------------------------------------------------------------------
# One integer seeds a generator of our own: trees of many inodes at the price of a few draws, and a
# failure shrinks to a smaller shape and another seed.

_NAMES = (
    [b"a", b"b", b"!", b"-", b"..x", b".hidden", b"...", b" ", b"\\", b"=", b"\xff\xfe", b"\n\r\t"]
    + [b"00", b"7f", b"ff", b"FF", b"n" * 255, b"\x01" * 254, "ü".encode()]
    + [b"file%d" % i for i in range(20)]
)
_KEYS = [
    b"user.a", b"user.b", b"user.", b"user.overlay.opaque", b"trusted.x", b"trusted.overlay.foo",
    b"trusted.overlay.redirect", b"trusted.overlay.metacopy", b"trusted.overlay.opaque",
    b"trusted.overlay.overlay.foo", b"trusted.overlay.zz", b"security.selinux",
    b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default",
    b"system.posix_acl_accessfoo", b"lustre.lov", b"btrfs.compression", b"x", b"trusted.", b"k=v",
    b"user." + b"k" * 250,
]  # fmt: skip
_VALUES = [
    b"", b"x", b"y", b"-", b"a=b c", b"\0\1\2", b"\xee", b"\0\0", b"v" * 60, b"u:object_r:t:s0\0",
]  # fmt: skip
_SIZES = [
    1, 64, 65, 4095, 4096, 4097, 1 << 20, (1 << 32) - 1, 1 << 32, 1 << 43, (1 << 43) + 1, 5 << 40,
    1 << 50, 1 << 53,
]  # fmt: skip
_CONTENTS = [0, 1, 64, 100, 2047, 2048, 2049, 4095, 4096, 4097, 4999, 5000]
_TARGETS = [1, 2, 10, 100, 2000, 3900, 3999, 4000, 4030, 4032, 4033, 4064, 4095]
_IDS = [0, 0, 0, 1, 1000, 65535, 65536, 0xFFFFFFFF]
_TIMES = [(0, 0), (0, 0), (0, 1), (1633950376, 0), (1633950376, 999999999), (-5, 7), (1 << 40, 0)]

_T = TypeVar("_T")


def _pick(rng: random.Random, values: list[_T]) -> _T:
    return values[int(rng.random() * len(values))]


class _Maker:
    def __init__(self, rng: random.Random, *, sha512: bool) -> None:
        self.rng = rng
        self.rich = rng.random() < 0.6  # many kinds of everything, or a plain tree
        self.digest_size = 64 if rng.random() < 0.15 and sha512 else 32
        self.leaves: list[Inode] = []

    def xattrs(self) -> dict[bytes, bytes] | None:
        rng = self.rng
        if not self.rich or rng.random() < 0.3:
            if rng.random() < 0.5:
                return None
            return {b"security.selinux": b"label%d" % rng.randrange(3)}
        if rng.random() < 0.02:  # more than can be shared
            return {b"user.many%d" % i: b"m" for i in range(rng.randrange(120, 140))}
        if rng.random() < 0.02:
            return {b"user.big": rng.randbytes(rng.randrange(100, 16000))}
        result: dict[bytes, bytes] = {}
        for _ in range(rng.randrange(4)):
            key = _pick(rng, _KEYS)
            value = _pick(rng, _VALUES) if rng.random() < 0.8 else rng.randbytes(rng.randrange(40))
            if not value and layout.split_xattr_name(key)[1] == b"":
                value = b"v"  # composefs-info overlooks an entry of four bytes at the end
            result[key] = value
        return result or None

    def common(self, mode: int) -> Inode:
        rng = self.rng
        inode = Inode(mode | (rng.randrange(0o10000) if self.rich else 0o644))
        inode.uid, inode.gid = (_pick(rng, _IDS), _pick(rng, _IDS)) if self.rich else (0, 0)
        mtime = _pick(rng, _TIMES) if self.rich else (1, rng.randrange(2))
        inode.mtime_sec, inode.mtime_nsec = mtime
        inode.nlink = _pick(rng, [1, 1, 1, 2, 0, 65535, 65536]) if self.rich else 1
        inode.xattrs = self.xattrs()
        return inode

    def leaf(self) -> Inode:
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            inode = self.common(stat.S_IFREG)
            if rng.random() < 0.3:
                length = rng.choice(_CONTENTS)
                inode.content = rng.randbytes(length) or None
                inode.size = length
            else:
                inode.size = _pick(rng, _SIZES)
                self.set_object(inode)
        elif kind < 0.7:
            inode = self.common(stat.S_IFLNK)
            length = rng.choice(_TARGETS)
            inode.payload = rng.choice([b"t", b"/", b"\xff ", b"-", b"\\"])[:1] * length
            inode.size = length
        elif kind < 0.8:
            inode = self.common(rng.choice([stat.S_IFCHR, stat.S_IFBLK]))
            inode.rdev = rng.choice([1, 0x501, 0xFFFFFFFF, 0x10300])
        elif kind < 0.9:
            inode = self.common(stat.S_IFCHR)  # a whiteout
        else:
            inode = self.common(rng.choice([stat.S_IFIFO, stat.S_IFSOCK]))
        return inode

    def set_object(self, inode: Inode) -> None:
        rng = self.rng
        digest = rng.randbytes(self.digest_size)
        if rng.random() < 0.3:
            digest = bytes([rng.randrange(4)]) * self.digest_size
        kind = rng.random()
        name = digest.hex().encode()
        if kind < 0.8:
            inode.payload = name[:2] + b"/" + name[2:]
            inode.digest = digest
        elif kind < 0.9:
            inode.payload = rng.choice([b"some/path", b"/lead", b"-", b"p" * 4094, b"x"])
        elif kind < 0.95:
            inode.digest = digest

    def names(self, count: int) -> list[bytes]:
        rng = self.rng
        names: set[bytes] = set()
        for _ in range(count):
            if rng.random() < 0.5:
                names.add(_pick(rng, _NAMES))
            else:
                names.add(b"%x" % rng.randrange(1 << 30) * rng.randrange(1, 30))
        return [name[:255] for name in names]

    def directory(self, count: int, depth: int) -> Inode:
        inode = self.common(stat.S_IFDIR)
        inode.entries = {}
        for name in self.names(count):
            chance = self.rng.random()
            if chance < 0.15 and depth:
                child = self.directory(self.rng.randrange(1 + count // 2), depth - 1)
            elif chance < 0.25 and self.leaves:
                child = self.rng.choice(self.leaves)
            else:
                child = self.leaf()
                self.leaves.append(child)
            inode.entries[name] = child
        return inode


def random_tree(seed: int, count: int, depth: int, *, sha512: bool = True) -> Inode:
    """A tree with about `count` names in its root, directories up to `depth` below it."""
    maker = _Maker(random.Random(seed), sha512=sha512)
    return maker.directory(count, depth)


_shapes = (st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 4))
trees = st.builds(random_tree, *_shapes)
sha256_trees = st.builds(random_tree, *_shapes, sha512=st.just(False))
versions = st.sampled_from([(0, 0), (0, 1), (1, 1)])
