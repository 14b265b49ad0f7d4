"""The file system tree: what an image says, independent of how it is stored.

A tree is its root `Inode`. A directory's `entries` map names to inodes; a hard link is the same
`Inode` object under several names (never a directory). Nothing here touches a disk.

Invariants that makers of trees keep (`cfsrepo.formats.dumpreader` and `cfsrepo.oci.merge` check
their input so that they hold):

- names are 1..255 bytes without `/` and NUL, neither `.` nor `..`;
- `mode` has exactly one known file type; `entries` is a dict for a directory and None otherwise;
- a regular file has `content` (its bytes, kept in the image), or `payload` (path of its object
  below the object directory, `xx/rest`) usually with `digest`, or is empty;
- a symlink has `payload`: its target;
- `rdev` counts for block and character devices only;
- `xattrs` maps full names (`security.capability`) to values; None means none;
- `home` says which of its names stands for a hard-linked inode where images order inodes: the
  directory and the name. None, or a place where the inode is not any more, is the first in `walk`.
"""

from __future__ import annotations

import gc
import stat
from collections.abc import Iterator
from contextlib import contextmanager

NAME_MAX = 255

Xattrs = dict[bytes, bytes]


class Inode:
    """One file of any type. Plain and mutable: trees of a million of them are built and walked."""

    __slots__ = (
        "content",
        "digest",
        "entries",
        "gid",
        "home",
        "mode",
        "mtime_nsec",
        "mtime_sec",
        "nlink",
        "payload",
        "rdev",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        mode: int,
        *,
        uid: int = 0,
        gid: int = 0,
        rdev: int = 0,
        mtime_sec: int = 0,
        mtime_nsec: int = 0,
        nlink: int = 1,
        size: int = 0,
        xattrs: Xattrs | None = None,
        content: bytes | None = None,
        payload: bytes | None = None,
        digest: bytes | None = None,
        entries: dict[bytes, Inode] | None = None,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.mtime_sec = mtime_sec
        self.mtime_nsec = mtime_nsec
        self.nlink = nlink
        self.size = size
        self.xattrs = xattrs
        self.content = content
        self.payload = payload
        self.digest = digest
        self.entries = entries
        self.home: tuple[Inode, bytes] | None = None

    @property
    def is_dir(self) -> bool:
        return self.entries is not None

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_device(self) -> bool:
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """Character device 0:0, which overlayfs takes for "this name is deleted"."""
        return stat.S_ISCHR(self.mode) and self.rdev == 0


def directory(mode: int = 0o755) -> Inode:
    """A new empty directory owned by 0:0."""
    return Inode(stat.S_IFDIR | mode, entries={}, nlink=2)


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Every (path, inode), parents first, names in byte order, depth first; the root is `b"/"`.

    A hard-linked inode comes once for each of its names. No recursion: depth is the input's choice.
    """
    yield b"/", root
    stack = [(b"", iter(sorted((root.entries or {}).items())))]
    while stack:
        parent, entries = stack[-1]
        for name, inode in entries:
            path = parent + b"/" + name
            yield path, inode
            if inode.entries:
                stack.append((path, iter(sorted(inode.entries.items()))))
                break
        else:
            stack.pop()


@contextmanager
def paused_gc() -> Iterator[None]:
    """While a large tree is built: the cyclic collector would walk it again and again for nothing.

    Reference counting frees all the same. Nests; leaves the collector as it found it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
