"""The one walk over an image: every name, and every inode as the tree had it before it became an
image.

What composefs added is undone: escaped xattrs get their names back, those that only lead overlayfs
to the data become payload and digest, whiteouts are character devices again, and the whiteouts that
hide object directories are not seen. `ErofsImage` answers single questions; whoever goes through a
whole image does it here, so that one rule holds for hostile ones:

- a directory has one name: a second one, which a circle needs as well, is damage;
- names in a directory are in order, and no path is longer than `layout.PATH_MAX`;
- directories and xattrs together are read no longer than the image is.

Nothing is kept of an inode after its turn but one bit (and the path, where it has several names),
so memory does not grow with the tree.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from itertools import chain
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
_new_tuple = tuple.__new__  # without the constructor of a named tuple: half the time
_DOTS = frozenset((b".", b".."))


class Entry(NamedTuple):
    """One name of the walk."""

    path: bytes  # from where the walk starts, `/a/b`; the start itself is empty
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
    """Walks `image` once. Raises InputError where it is damaged.

    `mounted`: as a mount shows it, without any whiteout.
    """

    def __init__(self, image: ErofsImage, *, mounted: bool = False) -> None:
        self._image = image
        self._seen = bytearray((len(image.data) >> layout.SLOT_BITS + 3) + 1)
        self._first: dict[int, bytes] = {}
        self._budget = len(image.data)
        self._links_budget = _LINKS_FACTOR * len(image.data)
        self._xattrs = XattrReader(image)
        # Whiteouts of the tree are escaped, but for composefs-rs's version of the format.
        self._hide_whiteouts = mounted or image.version != layout.VERSION_COMPOSEFS_RS

    def entries(
        self, start: int | None = None, toplevel: Collection[bytes] | None = None
    ) -> Iterator[Entry]:
        """All names, depth first, in byte order, `start` (a nid; None: the root) first.

        `toplevel`: of what is in `start` only these names.
        """
        top = None if toplevel is None else frozenset(toplevel)
        return self._walk(self._image.root_nid if start is None else start, top, all_names=True)

    def children(
        self, directory: InodeInfo, only: frozenset[bytes] | None = None
    ) -> Iterator[tuple[bytes, InodeInfo]]:
        """(name, inode) of what is in a directory, in byte order; `only` these names.

        For who goes through a tree in an order of his own; ask once for each directory.
        """
        return chain.from_iterable(self._child_blocks(directory, only))

    def _child_blocks(
        self, directory: InodeInfo, only: frozenset[bytes] | None
    ) -> Iterator[list[tuple[bytes, InodeInfo]]]:
        """`children`, a block of the directory at a time: a list costs less than a generator."""
        # In a sound image no two inodes have a directory block in common.
        self._spend(directory.size)
        image, seen, hide_whiteouts = self._image, self._seen, self._hide_whiteouts
        inode_at, root_nid = image.inode, image.root_nid
        previous = b""
        for block in image.entry_blocks(directory):
            found = []
            for nid, name, _ in block:
                if name <= previous:
                    raise InputError(f"{image.name}: directory {directory.nid} is not in order")
                previous = name
                if name in _DOTS or (only is not None and name not in only):
                    continue
                info = inode_at(nid)
                kind = info.mode & _IFMT
                if kind == _DIR:
                    byte, bit = seen[nid >> 3], 1 << (nid & 7)
                    if byte & bit or nid == root_nid:
                        raise InputError(f"{image.name}: inode {nid} is in two directories")
                    seen[nid >> 3] = byte | bit
                elif kind == _CHR and hide_whiteouts and not info.rdev:
                    continue
                found.append((name, info))
            yield found

    def _walk(
        self, start: int, top: frozenset[bytes] | None, *, all_names: bool
    ) -> Iterator[Entry]:
        image, seen = self._image, self._seen
        root = image.inode(start)
        seen[start >> 3] |= 1 << (start & 7)
        yield Entry(b"", root, None)
        if root.mode & _IFMT != _DIR:
            return
        stack = [(b"", self.children(root, top))]
        while stack:
            parent, children = stack[-1]
            for name, info in children:
                path = parent + b"/" + name
                if len(path) > layout.PATH_MAX:
                    raise LimitError(f"{image.name}: a path is longer than {layout.PATH_MAX} bytes")
                if info.mode & _IFMT == _DIR:
                    stack.append((path, self.children(info)))
                    yield _new_tuple(Entry, (path, info, None))
                    break
                nid = info.nid
                byte, bit = seen[nid >> 3], 1 << (nid & 7)
                if byte & bit:
                    if all_names:
                        yield Entry(path, info, self._first_path(nid, start, top))
                    continue
                seen[nid >> 3] = byte | bit
                if info.nlink != 1:
                    self._first[nid] = path
                yield _new_tuple(Entry, (path, info, None))
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
            return _new_tuple(Node, (mode, size, payload, content, None, ()))
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
        return _new_tuple(Node, (mode, size, payload, content, digest, xattrs))

    # --- what has been seen ----------------------------------------------------------------------

    def _first_path(self, nid: int, start: int, top: frozenset[bytes] | None) -> bytes:
        """The path under which `nid` came first. An inode with a wrong link count costs a walk."""
        path = self._first.get(nid)
        if path is None:
            for entry in ImageWalk(self._image)._walk(start, top, all_names=False):
                self._first.setdefault(entry.info.nid, entry.path)
            path = self._first[nid]
        return path

    def _spend(self, amount: int) -> None:
        """In a sound image no two inodes have a directory block or an xattr area in common."""
        self._budget -= amount
        if self._budget < 0:
            raise InputError(f"{self._image.name}: inodes overlap")
