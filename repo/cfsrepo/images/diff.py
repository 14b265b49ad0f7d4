"""What is different between two trees, each an image or a directory.

Two images are compared by their metadata alone: equal content has an equal digest. A directory's
files (`cfsrepo.worktree.directorytree`) have to be read, but only those whose size does not tell
already.

Compared are type, content, mode, owner, device number, mtime and extended attributes; not inode
numbers, and not which files are hard links of each other. Against a plain directory, times count in
whole seconds.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cfsrepo.errors import NotFoundError, printable
from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.tree import Inode


class Change(StrEnum):
    """What happened to a path on the way from the first tree to the second."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Entry:
    """The metadata of a file that is compared; `content` is asked for only when needed."""

    mode: int
    uid: int
    gid: int
    size: int
    rdev: int
    mtime: tuple[int, int]
    xattrs: dict[bytes, bytes]

    @classmethod
    def of(cls, inode: Inode) -> Entry:
        """The metadata of an inode of a tree."""
        return cls(
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size,
            inode.rdev if inode.is_device else 0,
            (inode.mtime_sec, inode.mtime_nsec),
            inode.xattrs or {},
        )

    @property
    def type(self) -> int:
        """S_IFMT of the mode."""
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same in both trees."""

    change: Change
    path: bytes
    what: tuple[str, ...] = ()
    """For a change: of `type content mode owner rdev mtime xattr`, what is different."""
    before: Entry | None = None
    after: Entry | None = None


class Tree(Protocol):
    """A tree to compare. A node is whatever the tree wants it to be."""

    precise_times: bool

    def find(self, path: bytes) -> object:
        """The node at `path`, from which a comparison starts; `NotFoundError`."""

    def entry(self, node: object) -> Entry:
        """Its metadata."""

    def children(self, node: object) -> list[tuple[bytes, object]]:
        """Names and nodes of a directory, sorted by name."""

    def content(self, node: object, algorithm: Algorithm) -> bytes:
        """What is equal for equal content: a symlink's target, a file's fs-verity digest."""


class ImageTree:
    """An image as a tree to compare, as a mount shows it; its digests' algorithm is the image's.

    Raises InputError where the image is damaged.
    """

    precise_times = True

    def __init__(self, image: ErofsImage) -> None:
        self._image = image

    def find(self, path: bytes) -> object:
        nid = self._image.lookup_path(path)
        if nid is None:
            raise NotFoundError(f"{self._image.name}: no such path: {printable(path)}")
        return ImageWalk(self._image, mounted=True), self._image.inode(nid)

    def entry(self, node: object) -> Entry:
        _, inode = _of_image(node)
        return Entry(
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size,
            inode.rdev,
            (inode.mtime_sec, inode.mtime_nsec),
            self._image.xattrs(inode.nid),
        )

    def children(self, node: object) -> list[tuple[bytes, object]]:
        walk, inode = _of_image(node)
        return [(name, (walk, below)) for name, below in walk.children(inode)]

    def content(self, node: object, algorithm: Algorithm) -> bytes:
        _, inode = _of_image(node)
        if stat.S_ISLNK(inode.mode):
            return self._image.link_target(inode)
        backing = self._image.backing_of(inode)
        if backing is None:
            return fsverity.digest(self._image.inline_data(inode.nid) or b"", algorithm)
        # Without a digest in the image the path of the object, which is made of it, must do.
        return backing.digest or bytes.fromhex(backing.path.replace(b"/", b"").decode("ascii"))


def _of_image(node: object) -> tuple[ImageWalk, InodeInfo]:
    """A node of an image: the walk that it came by, which knows where it was, and the inode."""
    assert isinstance(node, tuple)
    return node


class InodeTree:
    """A tree in memory as a tree to compare. Contents without a digest are hashed."""

    precise_times = True

    def __init__(self, root: Inode, name: str) -> None:
        self._root = root
        self._name = name

    def find(self, path: bytes) -> object:
        found = inode_at(self._root, path)
        if found is None:
            raise NotFoundError(f"{self._name}: no such path: {printable(path)}")
        return found

    def entry(self, node: object) -> Entry:
        assert isinstance(node, Inode)
        return Entry.of(node)

    def children(self, node: object) -> list[tuple[bytes, object]]:
        assert isinstance(node, Inode)
        return sorted((node.entries or {}).items())

    def content(self, node: object, algorithm: Algorithm) -> bytes:
        assert isinstance(node, Inode)
        return content_of(node, algorithm)


def inode_at(root: Inode, path: bytes) -> Inode | None:
    """The inode at `path` of a tree; None where none is."""
    inode: Inode | None = root
    for name in path.split(b"/"):
        if name not in (b"", b".") and inode is not None:
            inode = None if inode.entries is None else inode.entries.get(name)
    return inode


def content_of(inode: Inode, algorithm: Algorithm) -> bytes:
    """What is equal for files of a tree with equal content: see `Tree.content`."""
    if inode.is_symlink:
        return inode.payload or b""
    if inode.payload is None:
        return fsverity.digest(inode.content or b"", algorithm)
    return inode.digest or bytes.fromhex(inode.payload.replace(b"/", b"").decode("ascii"))


def compare(
    first: Tree, second: Tree, path: bytes = b"/", algorithm: Algorithm = Algorithm.SHA256
) -> Iterator[Difference]:
    """The differences at and below `path`, parents first, in byte order of the names.

    `algorithm` is that of the images' digests. Of a directory that only one tree has, everything
    below it is told too.
    """
    top = b"/" + b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
    comparison = _Comparison(first, second, algorithm)
    # (path, node in the first, node in the second), the next one last
    pending: list[tuple[bytes, object, object]] = [(top, first.find(path), second.find(path))]
    while pending:
        path, one, two = pending.pop()
        difference, directories = comparison.differ(path, one, two)
        if difference is not None:
            yield difference
        if directories:
            prefix = path.rstrip(b"/") + b"/"
            names = comparison.names(one, two, directories)
            pending += [(prefix + name, a, b) for name, a, b in reversed(names)]


class _Comparison:
    def __init__(self, first: Tree, second: Tree, algorithm: Algorithm) -> None:
        self.first = first
        self.second = second
        self.algorithm = algorithm
        self.precise = first.precise_times and second.precise_times

    def differ(
        self, path: bytes, one: object, two: object
    ) -> tuple[Difference | None, tuple[bool, bool] | None]:
        """What is different at `path`, and which of the two are directories to enter."""
        before = None if one is None else self.first.entry(one)
        after = None if two is None else self.second.entry(two)
        directories = (_is_directory(before), _is_directory(after))
        enter = directories if any(directories) else None
        if before is None:
            return Difference(Change.ADDED, path, after=after), enter
        if after is None:
            return Difference(Change.REMOVED, path, before=before), enter
        what = self.compare_entries(before, after, one, two)
        if not what:
            return None, enter
        return Difference(Change.CHANGED, path, what, before, after), enter

    def compare_entries(
        self, before: Entry, after: Entry, one: object, two: object
    ) -> tuple[str, ...]:
        what = []
        if before.type != after.type:
            what.append("type")
        elif self.content_differs(before, after, one, two):
            what.append("content")
        if stat.S_IMODE(before.mode) != stat.S_IMODE(after.mode):
            what.append("mode")
        if (before.uid, before.gid) != (after.uid, after.gid):
            what.append("owner")
        if before.rdev != after.rdev:
            what.append("rdev")
        if before.mtime[0] != after.mtime[0] or (self.precise and before.mtime != after.mtime):
            what.append("mtime")
        if before.xattrs != after.xattrs:
            what.append("xattr")
        return tuple(what)

    def content_differs(self, before: Entry, after: Entry, one: object, two: object) -> bool:
        if before.type not in (stat.S_IFREG, stat.S_IFLNK):
            return False
        if before.size != after.size:
            return True
        if before.size == 0:
            return False
        return self.first.content(one, self.algorithm) != self.second.content(two, self.algorithm)

    def names(
        self, one: object, two: object, directories: tuple[bool, bool]
    ) -> list[tuple[bytes, object, object]]:
        """(name, node, node) of all that is in either directory, sorted; None where it is not."""
        ours = dict(self.first.children(one)) if directories[0] else {}
        theirs = dict(self.second.children(two)) if directories[1] else {}
        return [(name, ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})]


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and stat.S_ISDIR(entry.mode)
