"""A directory on disk read as a tree, with its own metadata or with that of its records.

Files of more than `INLINE_MAX` bytes become objects, named by their fs-verity digest; smaller ones
are kept in the image. A file with several names inside the directory is one inode; its link count
is the number of those names.

The directory may change meanwhile: no symlink in it is followed, and a file that changes while it
is read is an error. One directory is open at a time, so depth costs nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass
from typing import Final

from cfsrepo.formats.tree import Inode, paused_gc
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store.objects import ObjectStore
from cfsrepo.system.closing import Closing
from cfsrepo.worktree import checkoutmark
from cfsrepo.worktree.below import DIRECTORY, named, open_below
from cfsrepo.worktree.filecontents import ContentFile, ContentReader
from cfsrepo.worktree.filemetadata import AsOnDisk, ByRecord, DiskFile, Metadata

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_OPENED: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO})


@dataclass(frozen=True, slots=True)
class BareTree:
    """What a bare-user tree says, and how its files were found."""

    root: Inode
    files_without_record: int
    """Real symlinks left out."""
    files_chmodded: int
    """Files whose permissions on disk are neither those of their record nor of adopted files."""
    files_adopted: int
    """Files that became objects."""


def scan_bare_tree(
    path: str,
    base: Inode | None = None,
    *,
    store: ObjectStore | None = None,
    adopt: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> BareTree:
    """The bare-user tree in the directory `path`, as its records say.

    `base` gives metadata to files without a record. `store`: objects are stored there; `adopt`:
    by making the files objects, which must not be edited in place then.

    Raises InputError, with the path, for an unfinished tree, a record that is none or contradicts
    its file, a file that changed; OSError.
    """
    checkoutmark.check_finished(path)
    metadata = ByRecord(path)
    with Scanner(path, metadata) as scanner:
        root = scanner.read_tree(base)
        reader = ContentReader(path, scanner.fd, store, adopt=adopt)
        reader.fill(scanner.files, progress or NoProgress(), workers)
    return BareTree(root, metadata.without_record, metadata.chmodded, reader.adopted)


def scan_directory(
    path: str,
    metadata: AsOnDisk | None = None,
    *,
    store: ObjectStore | None = None,
    workers: int | None = 1,
) -> Inode:
    """The tree below the directory `path`, with the metadata that its files have on disk.

    `store`: objects are stored there. Raises OSError, with the path, for what cannot be read;
    InputError for a file that changed.
    """
    with Scanner(path, metadata or AsOnDisk()) as scanner:
        root = scanner.read_tree()
        ContentReader(path, scanner.fd, store).fill(scanner.files, NoProgress(), workers)
    return root


class Scanner(Closing):
    """Lists the directory `path` and what is below it, all at once or directory by directory."""

    def __init__(self, path: str, metadata: Metadata) -> None:
        self._path = path
        self._metadata = metadata
        self._linked: dict[tuple[int, int], Inode] = {}
        self.fd = os.open(path, DIRECTORY | os.O_CLOEXEC)
        self.files: list[ContentFile] = []
        """Regular files that are not empty, and those that stand for symlinks."""

    def close(self) -> None:
        """Close the directory."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read_tree(self, base: Inode | None = None) -> Inode:
        """The tree, without contents, of which `files` need one."""
        with paused_gc():
            root = self.root(base)
            pending = deque([(b"", root, base)])
            while pending:
                pending.extend(self.read_directory(*pending.popleft()))
        return root

    def root(self, base: Inode | None = None) -> Inode:
        """The directory itself, without entries."""
        root = self._metadata.inode(DiskFile(b"", os.fstat(self.fd), self.fd), base)
        assert root is not None
        root.entries, root.nlink = {}, 2
        return root

    def read_directory(
        self, path: bytes, directory: Inode, base: Inode | None
    ) -> list[tuple[bytes, Inode, Inode | None]]:
        """Fill `directory`, found at `path`; (path, inode, base) of the directories in it."""
        entries = directory.entries
        assert entries is not None
        base_entries = (base.entries if base is not None else None) or {}
        below: list[tuple[bytes, Inode, Inode | None]] = []
        try:
            fd = open_below(self.fd, path, DIRECTORY)
        except OSError as error:
            raise named(error, self._path, path) from error
        try:
            with os.scandir(fd) as listing:
                found = list(listing)
            for entry in found:
                name = os.fsencode(entry.name)
                child = path + b"/" + name if path else name
                base_child = base_entries.get(name)
                try:
                    inode = self._read_entry(fd, entry, name, child, base_child)
                except OSError as error:
                    raise named(error, self._path, child) from error
                if inode is None:
                    continue
                entries[name] = inode
                if inode.entries is not None:
                    directory.nlink += 1
                    below.append((child, inode, base_child))
        finally:
            os.close(fd)
        return below

    def _read_entry(
        self,
        dir_fd: int,
        entry: os.DirEntry[str],
        name: bytes,
        path: bytes,
        base: Inode | None,
    ) -> Inode | None:
        """The inode of what `name` is in a directory; it has a content only if it is a symlink."""
        fd = _opened(entry, name, dir_fd)
        try:
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False) if fd < 0 else os.fstat(fd)
            kind = stat.S_IFMT(info.st_mode)
            key = info.st_dev, info.st_ino
            if info.st_nlink > 1 and kind != stat.S_IFDIR:
                known = self._linked.get(key)
                if known is not None:
                    known.nlink += 1
                    return known
            handle = fd if fd >= 0 else b"/proc/self/fd/%d/%b" % (dir_fd, name)
            file = DiskFile(path, info, handle)
            inode = self._metadata.inode(file, base)
        finally:
            if fd >= 0:
                os.close(fd)
        if inode is None:
            return None
        if kind == stat.S_IFDIR:
            inode.entries, inode.nlink = {}, 2
            return inode
        if info.st_nlink > 1:
            self._linked[key] = inode
        if kind == stat.S_IFLNK:
            inode.payload = os.readlink(name, dir_fd=dir_fd)
            inode.size = len(inode.payload)
        elif kind == stat.S_IFREG and (info.st_size or stat.S_ISLNK(inode.mode)):
            inode.size = info.st_size
            self.files.append(
                ContentFile(path, inode, info.st_size, info.st_mtime_ns, file.has_record)
            )
        return inode


def _opened(entry: os.DirEntry[str], name: bytes, dir_fd: int) -> int:
    """A descriptor of a regular file or directory; -1 for others, and where we may not read it."""
    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        return -1
    try:
        return os.open(name, _FILE, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _NOT_OPENED:
            return -1
        raise
