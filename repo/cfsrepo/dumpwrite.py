"""Writes composefs-dump(5), in its canonical form.

The lines are those that `composefs-info dump` prints for the tree's image: depth first, names in
byte order, sizes of directories as the image has them, each inode's own xattrs before those that it
shares. `LineFormat` makes lines for both sources, a tree (here) and an image.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator

from cfsrepo.erofs import layout
from cfsrepo.erofs.directory import Directory
from cfsrepo.erofs.plan import Pair, Plan, XattrSet
from cfsrepo.escape import escape, escape_optional, escape_xattr
from cfsrepo.tree import Inode, paused_gc

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
    """Makes lines of a dump; keeps the text of xattrs that lines have in common."""

    def __init__(self) -> None:
        self._xattrs: dict[Pair, bytes] = {}

    def xattrs(self, pairs: Iterable[Pair]) -> bytes:
        """The text of an image's xattrs (each after a space) as the tree had them.

        Those that only lead overlayfs are left out, escaped names are as before.
        """
        cache = self._xattrs
        parts = []
        for pair in pairs:
            text = cache.get(pair)
            if text is None:
                name = shown_name(pair[0])
                text = (
                    b"" if name is None else b" %b=%b" % tuple(map(escape_xattr, (name, pair[1])))
                )
                if len(cache) < _CACHE_MAX and len(text) < 1024:
                    cache[pair] = text
            parts.append(text)
        return b"".join(parts)


def shown_name(name: bytes) -> bytes | None:
    """The tree's name of an image's xattr; None for one that the tree did not have."""
    if name.startswith(layout.OVERLAY_ESCAPED_PREFIX):
        if name in (layout.ESCAPED_WHITEOUT, layout.ESCAPED_WHITEOUTS):
            return None
        return layout.OVERLAY_PREFIX + name[len(layout.OVERLAY_ESCAPED_PREFIX) :]
    if name.startswith(layout.OVERLAY_PREFIX):
        return None
    if name in (layout.USER_WHITEOUT, layout.USER_WHITEOUTS):
        return None
    return name


class _TreeDump:
    def __init__(self, plan: Plan, keep_homes: bool) -> None:
        self._plan = plan
        self._keep_homes = keep_homes
        self._format = LineFormat()
        self._texts: dict[XattrSet, bytes] = {}
        self._directory_at = {directory.index: directory for directory in plan.directories}
        self._path_of: dict[int, bytes] = {}  # of linked inodes, escaped

    def write(self, out: Callable[[bytes], object]) -> None:
        plan = self._plan
        linked = set(plan.linked.values())
        root = plan.directories[0]
        if self._keep_homes:
            self._find_homes(linked)
        lines = [b"/" + self._rest(0, root.inode, root, None)]
        stack = [(b"", self._children(root))]
        while stack:
            parent, children = stack[-1]
            for name, index in children:
                inode = plan.inodes[index]
                path = parent + b"/" + escape(name)
                below = self._directory_at.get(index)
                target = None
                if index in linked:
                    target = self._path_of.setdefault(index, path)
                    if target == path:
                        target = None
                lines.append(path + self._rest(index, inode, below, target))
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

    def _rest(
        self, index: int, inode: Inode, directory: Directory | None, link: bytes | None
    ) -> bytes:
        """The line of an inode behind its path."""
        mode = inode.mode & 0xFFFF
        kind = mode & 0o170000
        size, nlink, rdev = inode.size, inode.nlink, 0
        payload = content = digest = None
        if directory is not None:
            blocks, tail = directory.blocks_and_tail()
            size, nlink = blocks * layout.BLOCK_SIZE + tail, directory.link_count()
        elif kind == stat.S_IFREG:
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
        xattrs = self._plan.xattrs[index]
        text = b""
        if xattrs is not None:
            if kind == stat.S_IFREG and (layout.ESCAPED_WHITEOUT, b"") in xattrs.pairs:
                mode, size, rdev = mode & 0o7777 | stat.S_IFCHR, 0, 0
                content = None if content is None else b""
            known = self._texts.get(xattrs)
            if known is None:
                known = self._texts[xattrs] = self._xattr_text(xattrs, inode)
            text = known
        return b" %d %b%o %d %d %d %d %d.%d %b %b %b%b\n" % (
            size,
            b"" if link is None else b"@",
            mode,
            nlink,
            inode.uid,
            inode.gid,
            rdev,
            inode.mtime_sec,
            inode.mtime_nsec,
            escape_optional(payload) if link is None else link,
            escape_optional(content),
            b"-" if digest is None else digest.hex().encode(),
            text,
        )

    def _xattr_text(self, xattrs: XattrSet, inode: Inode) -> bytes:
        shared, own = self._plan.split(list(xattrs.pairs))
        return self._format.xattrs(own + shared)
