"""Writes composefs-dump(5), in its canonical form.

The lines are those that `composefs-info dump` prints for the tree's image: depth first, names in
byte order, sizes of directories as the image has them, each inode's own xattrs before those that it
shares. `LineFormat` makes lines for both sources, a tree (here) and an image.
"""

from __future__ import annotations

import stat
from binascii import hexlify
from collections.abc import Callable, Iterable, Iterator

from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import Directory
from cfsrepo.formats.erofs.plan import Pair, Plan, XattrSet
from cfsrepo.formats.escape import escape, escape_optional, escape_xattr
from cfsrepo.formats.tree import Inode, paused_gc

_CACHE_MAX = 1 << 15


def write_dump(
    root: Inode,
    out: Callable[[bytes], object],
    *,
    min_version: int = 1,
    max_version: int = 1,
    keep_homes: bool = False,
) -> None:
    """Give the dump of `root` to `out`, in pieces: what its image of that version holds.

    The first name of a hard-linked inode has the whole line, as in a dump made from the image. With
    `keep_homes` it is the name that the tree says (`Inode.home`), so that a maker of images that
    reads the dump orders the inodes as `erofs.writer` does.

    Raises InputError for a tree that no image can hold.
    """
    with paused_gc():
        plan = Plan(root, min_version=min_version, max_version=max_version)
        _TreeDump(plan, keep_homes).write(out)


class LineFormat:
    """Makes lines of a dump; keeps the text of xattrs and numbers that lines have in common."""

    def __init__(self) -> None:
        self._texts: dict[Pair, bytes] = {}
        self._sets: dict[tuple[Pair, ...], bytes] = {}
        self._numbers: dict[tuple[int, ...], bytes] = {}

    def xattrs_of(self, pairs: tuple[Pair, ...]) -> bytes:
        """As `xattrs`; the text is kept for the next inode with just these."""
        text = self._sets.get(pairs)
        if text is None:
            text = self.xattrs(pairs)
            if len(self._sets) < _CACHE_MAX and len(text) < 1024:
                self._sets[pairs] = text
        return text

    def xattrs(self, pairs: Iterable[Pair]) -> bytes:
        """The text of the tree's xattrs, each after a space."""
        texts = self._texts
        parts = []
        for pair in pairs:
            text = texts.get(pair)
            if text is None:
                text = b" %b=%b" % (escape_xattr(pair[0]), escape_xattr(pair[1]))
                if len(texts) < _CACHE_MAX and len(text) < 1024:
                    texts[pair] = text
            parts.append(text)
        return b"".join(parts)

    def line(
        self,
        path: bytes,
        mode: int,
        size: int,
        nlink: int,
        uid: int,
        gid: int,
        rdev: int,
        mtime_sec: int,
        mtime_nsec: int,
        payload: bytes | None,
        content: bytes | None,
        digest: bytes | None,
        xattrs: bytes,
        link: bytes | None,
    ) -> bytes:
        """A line. `path` and `link`, the path of a hard link's inode, are escaped already."""
        numbers = mode, nlink, uid, gid, rdev, mtime_sec, mtime_nsec
        middle = self._numbers.get(numbers)
        if middle is None:
            middle = b"%o %d %d %d %d %d.%d" % numbers
            if len(self._numbers) < _CACHE_MAX:
                self._numbers[numbers] = middle
        if content is not None or link is not None:
            return b"%b %d %b%b %b %b %b%b\n" % (
                path,
                size,
                b"" if link is None else b"@",
                middle,
                escape_optional(payload) if link is None else link,
                escape_optional(content),
                b"-" if digest is None else hexlify(digest),
                xattrs,
            )
        return b"%b %d %b %b - %b%b\n" % (
            path,
            size,
            middle,
            b"-" if payload is None else escape_optional(payload),
            b"-" if digest is None else hexlify(digest),
            xattrs,
        )


class _TreeDump:
    def __init__(self, plan: Plan, keep_homes: bool) -> None:
        self._plan = plan
        self._keep_homes = keep_homes
        self._format = LineFormat()
        self._texts: dict[tuple[XattrSet, bool], bytes] = {}
        self._directory_at = {directory.index: directory for directory in plan.directories}
        self._path_of: dict[int, bytes] = {}  # of linked inodes, escaped

    def write(self, out: Callable[[bytes], object]) -> None:
        plan = self._plan
        linked = set(plan.linked.values())
        root = plan.directories[0]
        if self._keep_homes:
            self._find_homes(linked)
        lines = [self._line(b"/", 0, root, None)]
        stack = [(b"", self._children(root))]
        while stack:
            parent, children = stack[-1]
            for name, index in children:
                path = parent + b"/" + escape(name)
                below = self._directory_at.get(index)
                target = None
                if index in linked:
                    target = self._path_of.setdefault(index, path)
                    if target == path:
                        target = None
                lines.append(self._line(path, index, below, target))
                if below is not None:
                    stack.append((path, self._children(below)))
                    break
            else:
                stack.pop()
            if len(lines) >= 4096:
                out(b"".join(lines))
                lines.clear()
        out(b"".join(lines))

    def _children(self, directory: Directory) -> Iterator[tuple[bytes, int]]:
        indexes = self._plan.child_indexes(directory)
        pairs = zip(directory.names, indexes, strict=True)
        if directory.index == 0:  # the whiteouts that hide object directories are no part of it
            own = directory.inode.entries
            assert own is not None
            return iter([pair for pair in pairs if pair[0] in own])
        return pairs

    def _find_homes(self, linked: set[int]) -> None:
        """The paths of the names that stand for linked inodes."""
        paths = {0: b""}
        for directory in self._plan.directories:
            path = paths.pop(directory.index)
            following = directory.first
            indexes = self._plan.child_indexes(directory)
            for name, index in zip(directory.names, indexes, strict=True):
                if index == following:
                    following += 1
                    if index in self._directory_at:
                        paths[index] = path + b"/" + escape(name)
                    elif index in linked:
                        self._path_of[index] = path + b"/" + escape(name)

    def _line(
        self, path: bytes, index: int, directory: Directory | None, link: bytes | None
    ) -> bytes:
        """The line of an inode under one of its names."""
        inode = self._plan.inodes[index]
        mode = inode.mode & 0xFFFF
        kind = mode & 0o170000
        size, nlink, rdev = inode.size, inode.nlink, 0
        payload = content = digest = None
        is_whiteout = False
        xattrs = self._plan.xattrs[index]
        if directory is not None:
            blocks, tail = directory.blocks_and_tail()
            size, nlink = blocks * layout.BLOCK_SIZE + tail, directory.link_count()
        elif kind == stat.S_IFREG:
            if xattrs is not None and any(n == layout.ESCAPED_WHITEOUT for n, _ in xattrs.pairs):
                is_whiteout = True
                mode, size = mode & 0o7777 | stat.S_IFCHR, 0
            else:
                content = inode.content
                if size and content is None:
                    payload, digest = inode.payload, inode.digest
        elif kind == stat.S_IFLNK:
            payload = inode.payload
            size = len(payload or b"")
        else:
            size = 0
            if kind in (stat.S_IFCHR, stat.S_IFBLK):
                rdev = inode.rdev
        return self._format.line(
            path, mode, size, nlink, inode.uid, inode.gid, rdev,
            inode.mtime_sec, inode.mtime_nsec, payload, content, digest,
            b"" if xattrs is None else self._xattr_text(xattrs, inode, is_whiteout), link,
        )  # fmt: skip

    def _xattr_text(self, xattrs: XattrSet, inode: Inode, is_whiteout: bool) -> bytes:
        text = self._texts.get((xattrs, is_whiteout))
        if text is not None:
            return text
        pairs = list(xattrs.pairs)
        # Those that lead to the data are not shown, but count where the most are shared already.
        crowded = len(pairs) > layout.XATTR_SHARED_MAX - 2
        if crowded:
            pairs = self._plan.all_pairs(xattrs, inode)
        shared, own = self._plan.split(pairs)
        text = self._format.xattrs(
            (shown, value)
            for name, value in own + shared
            if (shown := layout.tree_xattr_name(name)) is not None
            and not (is_whiteout and name == layout.ESCAPED_WHITEOUT)
        )
        if not crowded:
            self._texts[xattrs, is_whiteout] = text
        return text
