"""A walk over all of an image, with every inode as the tree had it before it became an image.

What composefs added is undone: escaped xattrs get their names back, those that only lead overlayfs
to the data become payload and digest, whiteouts are character devices again, and the whiteouts that
hide object directories are not seen. `ErofsImage` answers single questions; this is for dumps,
listings and trees.

Nothing is kept of an inode after its turn but one bit (and the path, where it has several names),
so memory does not grow with the tree. On a hostile image the walk ends: no directory is entered
twice, and directories and xattrs together are read no longer than the image is.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from itertools import chain
from operator import lt
from typing import NamedTuple

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.nodexattrs import Pair, XattrReader
from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo

_IFMT = 0o170000
_REG = 0o100000
_DIR = 0o040000
_LNK = 0o120000
_CHR = 0o020000
# Bytes of xattrs read again for later names, by bytes of the image: no honest image comes near.
_LINKS_FACTOR = 1024
_DOTS = frozenset((b".", b".."))


class Entry(NamedTuple):
    """One name of the walk."""

    path: bytes  # from the root, `/a/b`; the root itself is empty
    info: InodeInfo
    first: bytes | None  # the path under which the inode came before, if it did


class Node(NamedTuple):
    """An inode as the tree had it; what is not here is as in its `InodeInfo`."""

    mode: int
    size: int
    payload: bytes | None  # a symlink's target, or the path of a file's object
    content: bytes | None
    digest: bytes | None
    xattrs: tuple[Pair, ...]  # own ones first, then those shared with other inodes


class ImageWalk:
    """Walks `image` once. Raises InputError where it is damaged."""

    def __init__(self, image: ErofsImage) -> None:
        self._image = image
        self._seen = bytearray((len(image.data) >> layout.SLOT_BITS + 3) + 1)
        self._first: dict[int, bytes] = {}
        self._budget = len(image.data)
        self._links_budget = _LINKS_FACTOR * len(image.data)
        self._xattrs = XattrReader(image)

    def entries(self, toplevel: Collection[bytes] | None = None) -> Iterator[Entry]:
        """All names, depth first, in byte order, the root first.

        `toplevel`: of what is in the root only these names.
        """
        return self._walk(None if toplevel is None else frozenset(toplevel), all_names=True)

    def _walk(self, top: frozenset[bytes] | None, *, all_names: bool) -> Iterator[Entry]:
        image, seen = self._image, self._seen
        root = image.inode(image.root_nid)
        seen[root.nid >> 3] |= 1 << (root.nid & 7)
        yield Entry(b"", root, None)
        stack = [(b"", self._names_in(root))]
        while stack:
            parent, names = stack[-1]
            for nid, name, _ in names:
                if name in _DOTS:
                    continue
                if top is not None and len(stack) == 1 and name not in top:
                    continue
                info = image.inode(nid)
                kind = info.mode & _IFMT
                if kind == _CHR and not info.rdev and image.version != layout.VERSION_COMPOSEFS_RS:
                    continue
                path = parent + b"/" + name
                if len(path) > layout.PATH_MAX:
                    raise LimitError(f"{image.name}: a path is longer than {layout.PATH_MAX} bytes")
                byte, bit = seen[nid >> 3], 1 << (nid & 7)
                seen[nid >> 3] = byte | bit
                if byte & bit:
                    if kind == _DIR:
                        raise InputError(f"{image.name}: inode {nid} is in two directories")
                    if all_names:
                        yield Entry(path, info, self._first_path(nid, top))
                    continue
                if kind == _DIR:
                    stack.append((path, self._names_in(info)))
                    yield Entry(path, info, None)
                    break
                if info.nlink != 1:
                    self._first[nid] = path
                yield Entry(path, info, None)
            else:
                stack.pop()

    def node(self, info: InodeInfo, *, again: bool = False) -> Node:
        """The inode as the tree had it. `again`: not for the first time, under another name."""
        image = self._image
        mode, size = info.mode, info.size
        kind = mode & _IFMT
        payload = content = None
        if kind == _REG:
            if size and info.layout != layout.LAYOUT_CHUNK_BASED:
                if size > layout.CONTENT_MAX:
                    raise InputError(f"{image.name}: inode {info.nid} has {size} bytes of content")
                content = image.read_inline(info, 0, size)
        elif kind == _LNK:
            payload = image.link_target(info)
        elif kind != _DIR:
            size = 0
        if not info.xattr_icount:
            return Node(mode, size, payload, content, None, ())
        if again:
            self._links_budget -= layout.xattr_area_size(info.xattr_icount)
            if self._links_budget < 0:
                raise LimitError(f"{image.name}: too many names for inodes with large xattrs")
        else:
            self._spend(layout.xattr_area_size(info.xattr_icount))
        if kind != _REG:
            return Node(mode, size, payload, content, None, self._xattrs.of(info, is_file=False)[0])
        xattrs, payload, digest, is_whiteout = self._xattrs.of(info, is_file=True)
        if is_whiteout:
            return Node(mode & 0o7777 | stat.S_IFCHR, 0, None, None, None, xattrs)
        return Node(mode, size, payload, content, digest, xattrs)

    # --- what has been seen ----------------------------------------------------------------------

    def _first_path(self, nid: int, top: frozenset[bytes] | None) -> bytes:
        """The path under which `nid` came first. An inode with a wrong link count costs a walk."""
        path = self._first.get(nid)
        if path is None:
            for entry in ImageWalk(self._image)._walk(top, all_names=False):
                self._first.setdefault(entry.info.nid, entry.path)
            path = self._first[nid]
        return path

    def _names_in(self, directory: InodeInfo) -> Iterator[tuple[int, bytes, int]]:
        self._spend(directory.size)
        return chain.from_iterable(self._checked_blocks(directory))

    def _checked_blocks(self, directory: InodeInfo) -> Iterator[list[tuple[int, bytes, int]]]:
        """(nid, name, file type) of all entries, by blocks; their order is checked."""
        image = self._image
        previous = b""
        for block in image.entry_blocks(directory):
            names = [name for _, name, _ in block]
            if names[0] <= previous or not all(map(lt, names, names[1:])):
                raise InputError(f"{image.name}: directory {directory.nid} is not in order")
            previous = names[-1]
            yield block

    def _spend(self, amount: int) -> None:
        """In a sound image no two inodes have a directory block or an xattr area in common."""
        self._budget -= amount
        if self._budget < 0:
            raise InputError(f"{self._image.name}: inodes overlap")
