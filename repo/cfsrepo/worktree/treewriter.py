"""A tree on disk: a bare-user tree, written below one directory and nowhere else.

What each entry becomes says `cfsrepo.formats.metarecord` and the table of its design: regular files
and directories with a record `user.cfs.meta`, real symlinks where nothing is lost, placeholders
else.

Order matters. Directories are made first, with no rights for anybody but us; then files, each
complete before it gets its final rights; then further names of hard links; at last, from the
deepest directory up, the directories' own records, rights and times.

Nothing that exists is followed or replaced. Every directory is opened below the root by openat2
(RESOLVE_BENEATH, no symlinks, no magic links), every file is made in such a directory with O_EXCL:
whoever exchanges directories meanwhile gets an error, and no file outside.

Files are written by several processes: the work is system calls and hashing, in many small steps.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats import metarecord
from cfsrepo.formats.tree import Inode
from cfsrepo.progress import Progress
from cfsrepo.system import pool
from cfsrepo.system.closing import Closing
from cfsrepo.worktree import attributes, checkoutmark
from cfsrepo.worktree.attributes import is_bare_user
from cfsrepo.worktree.below import (
    DIRECTORY,
    directories_below,
    named,
    open_below,
    remove_below,
    shown,
)
from cfsrepo.worktree.checkoutmark import CheckoutMark

_BATCH: Final = 64 << 20  # bytes of content, and ...
_BATCH_FILES: Final = 2000  # ... files that a worker takes at a time

NO_IMAGE: Final = CheckoutMark(None)


class Contents(Protocol):
    """Where the contents of regular files come from. Used by several processes."""

    def create(self, inode: Inode, dir_fd: int, name: bytes, mode: int) -> int:
        """Make the file `name`, which must not exist, in `dir_fd`, with the content of `inode` and
        at most the permissions `mode`; returns a descriptor of it, open for reading at least."""


@dataclass(slots=True)
class _Files:
    """Files of one directory: its path, and (name, inode) of each."""

    path: bytes
    entries: list[tuple[bytes, Inode]]


class TreeWriter(Closing):
    """Writes one tree into the empty directory `path`, which is made if missing.

    `mark` says what it is made of. While it is written the directory is marked as unfinished.
    """

    def __init__(
        self,
        path: str,
        contents: Contents,
        mark: CheckoutMark = NO_IMAGE,
        *,
        replace: bool = False,
    ) -> None:
        """InputError where `path` is a directory with something in it.

        `replace`: a bare-user tree there, finished or not, is removed first.
        """
        self._path = path
        self._contents = contents
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self.fd = os.open(path, DIRECTORY | os.O_CLOEXEC)
        try:
            if os.listdir(self.fd):
                self._make_empty(replace)
            os.fchmod(self.fd, 0o700)
            self._mark = checkoutmark.begin(self.fd, mark, path)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Release the directory."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def write(
        self,
        root: Inode,
        progress: Progress,
        *,
        workers: int | None = None,
        before_directories: Callable[[], object] | None = None,
    ) -> None:
        """Write `root`. OSError, LimitError (a record that does not fit) name the file.

        `before_directories` is called when all files are there and directories get their times.
        """
        directories, files, links = self._plan(root)
        total = sum(len(group.entries) for group in files)
        task = "files"
        progress.start(task, total, "files")
        for path, _ in directories[1:]:
            self._in_parent(path, lambda fd, name: os.mkdir(name, 0o700, dir_fd=fd))
        batches = _batches(files)
        # A second process costs more than it brings for a handful of files.
        workers = 1 if len(batches) < 2 else workers
        for batch, _ in pool.run(batches, self._write_files, workers):
            progress.advance(task, sum(len(group.entries) for group in batch))
        for first, path in links:
            self._link(first, path)
        if before_directories is not None:
            before_directories()
        for path, inode in reversed(directories):
            self._finish_directory(path, inode)
        checkoutmark.finish(self.fd, self._mark, self._path)
        progress.finish(task)

    def _make_empty(self, replace: bool) -> None:
        mark = checkoutmark.read(self.fd)
        is_tree = mark is not None or is_bare_user(self._path)
        if replace and is_tree:
            directories = directories_below(self._path, self.fd)
            # Marked first: what is left, if that is interrupted, is no tree that was edited.
            checkoutmark.begin(self.fd, NO_IMAGE, self._path)
            remove_below(self._path, self.fd, directories)
        elif replace:
            raise InputError(
                f"{self._path}: neither empty nor a bare-user tree, so it is not replaced"
            )
        elif mark is not None and mark.finished_ns is None:
            raise checkoutmark.unfinished(self._path, mark)
        else:
            raise InputError(
                f"{self._path}: the directory is not empty",
                hint="'cfs checkout --force' replaces it with all edits" if is_tree else None,
            )

    # -- what there is to do ----------------------------------------------------------------------

    def _plan(
        self, root: Inode
    ) -> tuple[list[tuple[bytes, Inode]], list[_Files], list[tuple[bytes, bytes]]]:
        """Directories (parents first), first names of files, and further names (first, further)."""
        directories = [(b"", root)]
        files = []
        links = []
        first: dict[Inode, bytes] = {}
        for path, inode in directories:
            entries = inode.entries
            assert entries is not None
            group = _Files(path, [])
            for name, child in entries.items():
                below = path + b"/" + name if path else name
                if child.entries is not None:
                    directories.append((below, child))
                elif child.nlink == 1 or first.setdefault(child, below) == below:
                    group.entries.append((name, child))
                else:
                    links.append((first[child], below))
            if group.entries:
                files.append(group)
        return directories, files, links

    # -- the work ---------------------------------------------------------------------------------

    def _write_files(self, batch: list[_Files]) -> None:
        for group in batch:
            dir_fd = open_below(self.fd, group.path, DIRECTORY)
            try:
                for name, inode in group.entries:
                    path = group.path + b"/" + name if group.path else name
                    try:
                        self._write_file(dir_fd, name, inode, path)
                    except OSError as error:
                        raise named(error, self._path, path) from error
            finally:
                os.close(dir_fd)

    def _write_file(self, dir_fd: int, name: bytes, inode: Inode, path: bytes) -> None:
        if metarecord.is_plain_symlink(inode):
            os.symlink(inode.payload or b"", name, dir_fd=dir_fd)
            time = inode.mtime_sec * 1_000_000_000 + inode.mtime_nsec
            if _set_time(name, time, dir_fd):
                return
            os.unlink(name, dir_fd=dir_fd)  # a time it cannot have: a placeholder can
        mode = metarecord.disk_mode(inode.mode)
        if stat.S_ISREG(inode.mode):
            fd = self._contents.create(inode, dir_fd, name, mode)
        else:
            fd = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dir_fd
            )
            if inode.payload and stat.S_ISLNK(inode.mode):
                os.write(fd, inode.payload)
        try:
            self._finish(fd, inode, mode, path)
        finally:
            os.close(fd)

    def _finish(self, fd: int, inode: Inode, mode: int, path: bytes) -> None:
        """Record, rights and time of what is complete."""
        try:
            record = metarecord.encode_inode(inode)
        except LimitError as error:
            raise LimitError(f"{shown(self._path, path)}: {error}") from error
        attributes.write(fd, record, self._path, path)
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.fchmod(fd, mode)
        time = inode.mtime_sec * 1_000_000_000 + inode.mtime_nsec
        os.utime(fd, ns=(time, time))

    def _link(self, first: bytes, path: bytes) -> None:
        head, _, first_name = first.rpartition(b"/")
        first_fd = open_below(self.fd, head, DIRECTORY)
        try:
            self._in_parent(
                path,
                lambda fd, name: os.link(
                    first_name, name, src_dir_fd=first_fd, dst_dir_fd=fd, follow_symlinks=False
                ),
            )
        finally:
            os.close(first_fd)

    def _finish_directory(self, path: bytes, inode: Inode) -> None:
        fd = open_below(self.fd, path, DIRECTORY)
        try:
            self._finish(fd, inode, metarecord.disk_mode(inode.mode), path)
        except OSError as error:
            raise named(error, self._path, path) from error
        finally:
            os.close(fd)

    def _in_parent(self, path: bytes, work: Callable[[int, bytes], object]) -> None:
        """`work(descriptor of the parent of path, last name)`."""
        head, _, name = path.rpartition(b"/")
        fd = open_below(self.fd, head, os.O_PATH | os.O_DIRECTORY) if head else self.fd
        try:
            work(fd, name)
        except OSError as error:
            raise named(error, self._path, path) from error
        finally:
            if head:
                os.close(fd)


def _batches(files: list[_Files]) -> list[list[_Files]]:
    """The work in pieces of about equal size, in order."""
    batches: list[list[_Files]] = []
    size = count = 0
    for group in files:
        if not batches or size > _BATCH or count > _BATCH_FILES:
            batches.append([])
            size = count = 0
        batches[-1].append(group)
        size += sum(inode.size for _, inode in group.entries)
        count += len(group.entries)
    return batches


def _set_time(name: bytes, time: int, dir_fd: int) -> bool:
    """Set the mtime of a symlink; False where the file system cannot hold it."""
    os.utime(name, ns=(time, time), dir_fd=dir_fd, follow_symlinks=False)
    return os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mtime_ns == time
