"""How a tree becomes an image: the order of inodes, their extended attributes, what is shared.

The plan is composefs's, rule by rule: inodes in breadth-first order with the names of a directory
in byte order, 256 whiteouts for the names of object directories in the root, whiteouts of the tree
escaped, `trusted.overlay.` xattrs escaped, and xattrs that several inodes have in common moved to a
shared area. The tree itself is not changed. `erofs.writer` turns a plan into bytes, and the
canonical dump takes the order of xattrs from it.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from itertools import pairwise

from cfsrepo.errors import InputError, LimitError, UsageError, printable
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.directory import Directory
from cfsrepo.formats.tree import Inode

Pair = tuple[bytes, bytes]

_HEX_NAMES = tuple(b"%02x" % byte for byte in range(256))
_IFMT = 0o170000


class XattrSet:
    """Distinct extended attributes as they stand in the image, without those for object data."""

    __slots__ = ("pairs", "uses")

    def __init__(self, pairs: tuple[Pair, ...]) -> None:
        self.pairs = pairs  # in the order of names
        self.uses = 0


class Plan:
    """What an image of `root` in the given range of versions will hold.

    Raises InputError for a tree that no image can hold, naming the path; LimitError where it is
    only too large; UsageError for versions that do not exist.
    """

    def __init__(self, root: Inode, *, min_version: int = 1, max_version: int = 1) -> None:
        if not 0 <= min_version <= layout.VERSION_MAX or not 0 <= max_version <= layout.VERSION_MAX:
            raise UsageError(
                f"there is no image format {min_version}..{max_version}",
                hint=f"versions are {layout.VERSION_MIN} to {layout.VERSION_MAX}",
            )
        if root.entries is None:
            raise InputError("/: the root of a tree must be a directory")
        self.root = root
        self.version = min_version
        self.inodes: list[Inode] = []  # index = i_ino
        self.directories: list[Directory] = []  # in the order of their indexes
        self.linked: dict[Inode, int] = {}  # index of every inode that has several names
        self.xattrs: list[XattrSet | None] = []  # of each inode
        self.shared_redirects: frozenset[bytes] = frozenset()  # payloads that several inodes have
        self.shared_digests: frozenset[bytes | None] = frozenset()
        self.shared_offsets: dict[Pair, int] = {}  # in the shared area, in the order of the area
        self.shared_size = 0
        self.has_acl = False

        self._order()
        whiteouts = self._find_whiteouts(max_version)
        oldest = min(self.inodes, key=_mtime)
        self.min_mtime = oldest.mtime_sec, oldest.mtime_nsec
        self._sets: dict[tuple[Pair, ...], XattrSet] = {}
        self._canonical: dict[tuple[Pair, ...], XattrSet] = {}
        self._collect_xattrs(self._rewritten_xattrs(whiteouts))
        self._share()

    # --- order -----------------------------------------------------------------------------------

    def _order(self) -> None:
        """Number the inodes. A directory has one place, so only leaves can appear twice."""
        stubs = _whiteout_stubs(self.root)
        self._breadth_first(stubs, {})
        if len(set(self.inodes)) == len(self.inodes):
            return
        self._breadth_first(stubs, self._carriers())
        wanted = self.linked
        for index, inode in enumerate(self.inodes):
            if inode in wanted:
                wanted[inode] = index

    def _breadth_first(
        self, stubs: dict[bytes, Inode], carriers: dict[Inode, tuple[Inode, bytes]]
    ) -> None:
        self.inodes = order = [self.root]
        self.directories = directories = []
        seen: set[Inode] = set()
        for index, inode in enumerate(order):  # grows while it is walked
            entries = inode.entries
            if entries is None:
                continue
            if inode in seen:
                raise InputError(
                    f"{self.path(index)}: the directory is hard-linked or contains itself"
                )
            seen.add(inode)
            if index == 0:
                entries = {**stubs, **entries}
            names = sorted(entries)
            directory = Directory(index, inode, names, entries, len(order))
            directories.append(directory)
            if carriers:
                order.extend(
                    child
                    for name in names
                    if (child := entries[name]) not in carriers or carriers[child] == (inode, name)
                )
            else:
                order.extend([entries[name] for name in names])
            if names:
                check_names(entries, partial(self.path, index))
        above = 0
        for directory in directories[1:]:
            while above + 1 < len(directories) and directories[above + 1].first <= directory.index:
                above += 1
            directory.parent = directories[above]

    def _carriers(self) -> dict[Inode, tuple[Inode, bytes]]:
        """The (directory, name) that numbers each inode with several names."""
        seen: set[Inode] = set()
        several = dict.fromkeys(
            inode
            for inode in self.inodes
            if inode in seen or seen.add(inode)  # type: ignore[func-returns-value]
        )
        self.linked = dict.fromkeys(several, 0)
        places = {directory.inode for directory in self.directories}
        carriers: dict[Inode, tuple[Inode, bytes]] = {}
        for inode in several:
            home = inode.home
            if home is not None and home[0] in places:
                entries = home[0].entries
                if entries is not None and entries.get(home[1]) is inode:
                    carriers[inode] = home
        if len(carriers) < len(several):
            self._first_names(carriers)
        return carriers

    def _first_names(self, carriers: dict[Inode, tuple[Inode, bytes]]) -> None:
        """Complete `carriers`: the first name in depth-first order, as a dump would have it."""
        wanted = self.linked.keys() - carriers.keys()
        by_inode = {directory.inode: directory for directory in self.directories}
        stack = [(self.directories[0], iter(self.directories[0].names))]
        while stack and wanted:
            directory, names = stack[-1]
            for name in names:
                child = directory.children[name]
                if child.entries is not None:
                    below = by_inode[child]
                    stack.append((below, iter(below.names)))
                    break
                if child in wanted:
                    wanted.discard(child)
                    carriers[child] = directory.inode, name
            else:
                stack.pop()

    def child_indexes(self, directory: Directory) -> list[int]:
        """The index of the inode behind each name of a directory."""
        if not self.linked:
            return list(range(directory.first, directory.first + len(directory.names)))
        indexes = []
        following = directory.first
        for name in directory.names:
            index = self.linked.get(directory.children[name])
            # The name that carries a linked inode is the next child; others are elsewhere.
            if index is None or index == following:
                index = following
                following += 1
            indexes.append(index)
        return indexes

    def path(self, index: int) -> str:
        """The path of an inode, for messages."""
        parts: list[bytes] = []
        firsts = [directory.first for directory in self.directories]
        while index and len(parts) < 64:
            # The last directory whose children begin at or before `index`; empty ones do not count.
            directory = self.directories[bisect_right(firsts, index) - 1]
            inode = self.inodes[index]
            parts.append(next((n for n in directory.names if directory.children[n] is inode), b"?"))
            index = directory.index
        return printable(b"/" + b"/".join(reversed(parts)))

    # --- extended attributes ---------------------------------------------------------------------

    def _find_whiteouts(self, max_version: int) -> dict[int, Directory]:
        """The tree's own whiteouts, by index, with their directories; decides the version."""
        own = self.directories[0].inode.entries
        assert own is not None
        stubs = {
            child
            for name in _HEX_NAMES
            if name not in own and (child := self.directories[0].children.get(name)) is not None
        }
        found = [
            index
            for index, inode in enumerate(self.inodes)
            if inode.mode & _IFMT == stat.S_IFCHR and inode.rdev == 0 and inode not in stubs
        ]
        if found and self.version < 1 <= max_version:
            self.version = 1
        firsts = [directory.first for directory in self.directories]
        return {index: self.directories[bisect_right(firsts, index) - 1] for index in found}

    def _rewritten_xattrs(self, whiteouts: dict[int, Directory]) -> dict[int, dict[bytes, bytes]]:
        """Xattrs that are not only the inode's own, by index; whiteouts become regular files."""
        rewritten: dict[int, dict[bytes, bytes]] = {}
        for index, directory in whiteouts.items():
            inode = self.inodes[index]
            file = Inode(stat.S_IFREG | (inode.mode & ~_IFMT), uid=inode.uid, gid=inode.gid)
            file.nlink = inode.nlink
            file.mtime_sec, file.mtime_nsec = inode.mtime_sec, inode.mtime_nsec
            self.inodes[index] = file
            rewritten[index] = own_xattrs(inode, partial(self.path, index)) | {
                layout.ESCAPED_WHITEOUT: b"",
                layout.USER_WHITEOUT: b"",
            }
            marked = rewritten.get(directory.index)
            if marked is None:
                marked = rewritten[directory.index] = own_xattrs(
                    directory.inode, partial(self.path, directory.index)
                )
                marked[layout.ESCAPED_WHITEOUTS] = b""
                marked[layout.USER_WHITEOUTS] = b""
                if self.version >= 1:
                    marked[layout.ESCAPED_OPAQUE] = b"x"
                    marked[layout.USER_OPAQUE] = b"x"
        root = rewritten.setdefault(0, own_xattrs(self.root, lambda: "/"))
        root[layout.OVERLAY_OPAQUE] = b"y"
        return rewritten

    def _collect_xattrs(self, rewritten: dict[int, dict[bytes, bytes]]) -> None:
        """The set of each inode, and how many inodes use it."""
        sets, result = self._sets, self.xattrs
        none: XattrSet | None = None
        for index, inode in enumerate(self.inodes):
            xattrs = inode.xattrs
            if index in rewritten:
                found = self._canonical_set(rewritten[index])
            elif xattrs:
                key = tuple(xattrs.items())
                known = sets.get(key)
                if known is None:
                    known = sets[key] = self._canonical_set(
                        own_xattrs(inode, partial(self.path, index))
                    )
                found = known
            else:
                result.append(none)
                continue
            found.uses += 1
            result.append(found)

    def _canonical_set(self, xattrs: dict[bytes, bytes]) -> XattrSet:
        pairs = tuple(sorted(xattrs.items()))
        found = self._canonical.get(pairs)
        if found is None:
            found = self._canonical[pairs] = XattrSet(pairs)
        return found

    def _share(self) -> None:
        """Decide which xattrs are shared, and where in the shared area they lie."""
        counts: Counter[Pair] = Counter()
        for used in self._canonical.values():
            for pair in used.pairs:
                counts[pair] += used.uses
        shared = [pair for pair, count in counts.items() if count > 1]
        self.has_acl = any(key in (layout.ACL_ACCESS, layout.ACL_DEFAULT) for key, _ in counts)

        objects = [
            inode
            for inode in self.inodes
            if inode.size and inode.content is None and inode.mode & _IFMT == stat.S_IFREG
        ]
        for size in {len(inode.digest) for inode in objects if inode.digest is not None}:
            if size not in layout.METACOPY_ALGORITHMS:
                raise InputError(f"a digest of {size} bytes; fs-verity has 32 or 64")
        self.shared_redirects = _repeated([inode.payload for inode in objects if inode.payload])
        self.shared_digests = _repeated(
            [inode.digest for inode in objects if inode.digest is not None]
        )
        if sum(inode.digest is None for inode in objects) > 1:
            self.shared_digests |= {None}
        shared.extend((layout.OVERLAY_REDIRECT, b"/" + p) for p in self.shared_redirects)
        shared.extend(
            (layout.OVERLAY_METACOPY, layout.metacopy_value(digest))
            for digest in self.shared_digests
        )
        shared.sort(key=_table_key, reverse=True)
        offset = 0
        for pair in shared:
            self.shared_offsets[pair] = offset
            offset += entry_size(pair)
        self.shared_size = offset

    def all_pairs(self, xattrs: XattrSet | None, inode: Inode) -> list[Pair]:
        """All xattrs of an inode in the order of names, with those that lead to its data."""
        pairs = list(xattrs.pairs) if xattrs is not None else []
        if has_object(inode):
            pairs.append((layout.OVERLAY_METACOPY, layout.metacopy_value(inode.digest)))
            if inode.payload:
                pairs.append((layout.OVERLAY_REDIRECT, b"/" + inode.payload))
            pairs.sort()
        return pairs

    def split(self, pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
        """(shared, own) xattrs of an inode, from all of its pairs in the order of names."""
        offsets = self.shared_offsets
        shared = [pair for pair in pairs if pair in offsets][: layout.XATTR_SHARED_MAX]
        referred = set(shared)
        return shared, [pair for pair in pairs if pair not in referred]


def _repeated(values: list[bytes]) -> frozenset[bytes]:
    """What is there more than once.

    Sorted, since most are there once: a table that counts them would take several times the memory.
    """
    values.sort()
    return frozenset(value for value, following in pairwise(values) if value == following)


def check_names(names: Collection[bytes], path: Callable[[], str]) -> None:
    """Refuse a directory, whose path is `path()`, with a name that no file can have."""
    joined = b"\n".join(names)
    if (
        b"/" not in joined
        and b"\0" not in joined
        and not (b"" in names or b"." in names or b".." in names)
        and max(map(len, names), default=0) <= layout.NAME_MAX
    ):
        return
    for name in names:
        if len(name) > layout.NAME_MAX:
            raise LimitError(f"{path()}: a name of {len(name)} bytes, over {layout.NAME_MAX}")
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise InputError(f"{path()}: {name[:60]!r} is not a valid file name")


def own_xattrs(inode: Inode, path: Callable[[], str]) -> dict[bytes, bytes]:
    """A copy of the xattrs of `inode`, whose path is `path()`.

    overlayfs's own names get out of overlayfs's way.
    """
    xattrs = inode.xattrs or {}
    if layout.xattrs_size(xattrs) > layout.XATTR_AREA_MAX:
        raise LimitError(f"{path()}: extended attributes over {layout.XATTR_AREA_MAX} bytes")
    prefix, escaped = layout.OVERLAY_PREFIX, layout.OVERLAY_ESCAPED_PREFIX
    result = {}
    for key, value in xattrs.items():
        if not 0 < len(key) <= layout.XATTR_NAME_MAX or b"\0" in key:
            raise InputError(f"{path()}: {key[:60]!r} is not a valid name of an extended attribute")
        result[escaped + key[len(prefix) :] if key.startswith(prefix) else key] = value
    return result


def has_object(inode: Inode) -> bool:
    """Whether the inode is a regular file with data outside the image."""
    return inode.size > 0 and inode.content is None and inode.mode & _IFMT == stat.S_IFREG


def entry_size(pair: Pair) -> int:
    """Bytes of an xattr entry, padded."""
    _, rest = layout.split_xattr_name(pair[0])
    return (layout.XATTR_ENTRY_SIZE + len(rest) + len(pair[1]) + 3) & ~3


def entry_bytes(pair: Pair) -> bytes:
    """An xattr entry, padded."""
    index, rest = layout.split_xattr_name(pair[0])
    entry = layout.XATTR_ENTRY.pack(len(rest), index, len(pair[1])) + rest + pair[1]
    return entry + bytes(-len(entry) & 3)


def _mtime(inode: Inode) -> tuple[int, int]:
    return inode.mtime_sec, inode.mtime_nsec


def _table_key(pair: Pair) -> tuple[bytes, int, bytes]:
    return pair[0], len(pair[1]), pair[1]


def _whiteout_stubs(root: Inode) -> dict[bytes, Inode]:
    """Whiteouts that hide the object directories, for names that the root does not have itself."""
    label = (root.xattrs or {}).get(b"security.selinux")
    xattrs = None if label is None else {b"security.selinux": label}
    assert root.entries is not None
    stubs = {}
    for name in _HEX_NAMES:
        if name not in root.entries:
            stub = stubs[name] = Inode(stat.S_IFCHR | 0o644, uid=root.uid, gid=root.gid)
            stub.mtime_sec, stub.mtime_nsec = root.mtime_sec, root.mtime_nsec
            stub.xattrs = xattrs
    return stubs
