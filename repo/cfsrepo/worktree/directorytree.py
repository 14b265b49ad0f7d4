"""A directory on disk as a tree to compare with an image (`cfsrepo.images.diff`).

Directories are read when the comparison comes to them, files when nothing else tells whether they
are equal. Of a bare-user tree that is compared with the image it was checked out from, a file need
not be read that

- has the size and the record that the checkout gave it, with the record's mtime,
- has not been touched since the checkout was complete, as its ctime says, which the kernel alone
  sets,
- and is in the directory that the checkout put it into. A directory that was renamed has a new
  ctime, as the one that it came into has; where both are new, what is below is read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

from cfsrepo.errors import NotFoundError, printable
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.tree import Inode
from cfsrepo.images.diff import Entry, content_of
from cfsrepo.store import kernelverity
from cfsrepo.system.closing import Closing
from cfsrepo.worktree import checkoutmark
from cfsrepo.worktree.below import changed, named, open_below, shown
from cfsrepo.worktree.filemetadata import AsOnDisk, ByRecord
from cfsrepo.worktree.scan import Scanner

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TARGET_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Base:
    """The image that a bare-user tree is compared with."""

    root: Inode
    image_id: str


@dataclass(frozen=True, slots=True)
class _Node:
    path: bytes
    inode: Inode
    base: Inode | None
    """What the base has at this path."""
    new_ctime: bool
    """Of a directory: something happened to it since the checkout."""
    in_place: bool
    """Whether the directories above are where the checkout put them."""


class DirectoryTree(Closing):
    """The directory `path` as a tree for one comparison; symbolic links in it are never followed.

    A bare-user tree is what its records say, and a file without one what `base` has at its path
    (see `cfsrepo.worktree.filemetadata`); any other directory is what is on disk. Raises InputError
    for an unfinished tree and a bad record, OSError.
    """

    def __init__(self, path: str, base: Base | None = None, *, bare_user: bool) -> None:
        self._path = path
        self._base = base
        self._since: int | None = None
        self.precise_times = bare_user
        self._by_record = ByRecord(path) if bare_user else None
        checkoutmark.check_finished(path)
        if bare_user:
            mark = checkoutmark.read(path)
            if mark is not None and base is not None and mark.image_id == base.image_id:
                self._since = mark.finished_ns
        self._scanner = Scanner(path, self._by_record or AsOnDisk())
        self._device = os.fstat(self._scanner.fd).st_dev

    def close(self) -> None:
        """Close the directory."""
        self._scanner.close()

    @property
    def files_without_record(self) -> int:
        """Of what the comparison came to; real symlinks left out."""
        return 0 if self._by_record is None else self._by_record.without_record

    @property
    def files_chmodded(self) -> int:
        """Files whose mode was changed on disk only; their records count."""
        return 0 if self._by_record is None else self._by_record.chmodded

    def find(self, path: bytes) -> object:
        """The node at `path`; `NotFoundError`."""
        base = None if self._base is None else self._base.root
        node = _Node(b"", self._scanner.root(base), base, True, self._since is not None)
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                raise NotFoundError(f"{printable(path)}: '..' leads out of the tree")
            below = dict(self.children(node)) if node.inode.entries is not None else {}
            found = below.get(name)
            if found is None:
                raise NotFoundError(f"{shown(self._path, path.strip(b'/'))}: no such path")
            assert isinstance(found, _Node)
            node = found
        return node

    def entry(self, node: object) -> Entry:
        """Its metadata."""
        assert isinstance(node, _Node)
        return Entry.of(node.inode)

    def children(self, node: object) -> list[tuple[bytes, object]]:
        """Names and nodes of a directory, sorted by name."""
        assert isinstance(node, _Node)
        self._scanner.read_directory(node.path, node.inode, node.base)
        self._scanner.files.clear()
        entries = node.inode.entries or {}
        node.inode.entries = {}  # asked for once; a whole file system need not stay in memory
        base = (node.base.entries if node.base is not None else None) or {}
        return [
            (name, self._below(node, name, inode, base.get(name)))
            for name, inode in sorted(entries.items())
        ]

    def _below(self, parent: _Node, name: bytes, inode: Inode, base: Inode | None) -> _Node:
        path = parent.path + b"/" + name if parent.path else name
        if inode.entries is None or not parent.in_place:
            return _Node(path, inode, base, False, parent.in_place)
        assert self._since is not None
        new_ctime = self._status(path).st_ctime_ns >= self._since
        return _Node(path, inode, base, new_ctime, not (new_ctime and parent.new_ctime))

    def _status(self, path: bytes) -> os.stat_result:
        fd = self._open(path, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _open(self, path: bytes, flags: int) -> int:
        try:
            return open_below(self._scanner.fd, path, flags)
        except OSError as error:
            raise named(error, self._path, path) from error

    def content(self, node: object, algorithm: Algorithm) -> bytes:
        """What is equal for equal content: a symlink's target, a file's fs-verity digest."""
        assert isinstance(node, _Node)
        if node.inode.payload is not None:  # a real symlink
            return node.inode.payload
        fd = self._open(node.path, _FILE)
        try:
            info = os.fstat(fd)
            if info.st_size != node.inode.size:
                raise changed(self._path, node.path)
            if self._untouched(node, info):
                assert node.base is not None
                return content_of(node.base, algorithm)
            if node.inode.is_symlink:
                return os.read(fd, _TARGET_MAX)
            return kernelverity.measure(fd, algorithm) or fsverity.digest_fd(fd, algorithm)
        except OSError as error:
            raise named(error, self._path, node.path) from error
        finally:
            os.close(fd)

    def _untouched(self, node: _Node, info: os.stat_result) -> bool:
        base = node.base
        return (
            node.in_place
            and self._since is not None
            and info.st_ctime_ns < self._since
            and info.st_dev == self._device  # nothing was mounted here
            and stat.S_ISREG(info.st_mode)
            and base is not None
            and Entry.of(base) == Entry.of(node.inode)
        )
