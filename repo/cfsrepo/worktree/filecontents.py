"""Contents of scanned files: read, hashed and stored, by several processes.

Large ones share their blocks with the object where the file system can. With `adopt` the files
become the objects, where that is safe (`cfsrepo.store.hardlink`); a file without a record never
does, since its rights on disk are its metadata. A file that changes while it is read is an error.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

from cfsrepo.formats import fsverity
from cfsrepo.formats.metarecord import Meta
from cfsrepo.formats.tree import Inode
from cfsrepo.progress import Progress
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.system import pool
from cfsrepo.worktree.below import changed, named, open_below
from cfsrepo.worktree.filemetadata import bad_record

INLINE_MAX: Final = 64
"""Bytes of a file that is kept in the image."""
TARGET_MAX: Final = 4095  # bytes of a symlink's target
_READ_SIZE: Final = 1 << 20
_BATCH: Final = 64 << 20
_BATCH_FILES: Final = 2000
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(slots=True)
class ContentFile:
    """A regular file on disk whose content is wanted."""

    path: bytes
    inode: Inode
    size: int
    mtime_ns: int
    has_record: bool


class ContentReader:
    """Reads files of the tree in the directory `path`, open as `root_fd`.

    `store`: where contents of more than `INLINE_MAX` bytes go; None to hash them only. `adopt`:
    make the files objects, instead of copying them. They must not be edited in place then.
    """

    def __init__(
        self, path: str, root_fd: int, store: ObjectStore | None, *, adopt: bool = False
    ) -> None:
        self._path = path
        self._fd = root_fd
        self._store = store
        self._adopt = adopt
        self._taken = 0  # files adopted by this process
        self._share = True  # until the file system says that it cannot
        self.adopted = 0
        """Files that became objects."""

    def fill(self, files: list[ContentFile], progress: Progress, workers: int | None) -> None:
        """Give each file's inode its content, or digest and payload."""
        task = "contents"
        progress.start(task, sum(file.size for file in files))
        batches = _batches(files)

        def work(batch: list[ContentFile]) -> tuple[list[bytes | None], int]:
            before = self._taken
            return [self.read(file) for file in batch], self._taken - before

        # A second process costs more than it brings for a handful of files.
        count = 1 if len(batches) < 2 else workers
        for batch, (contents, adopted) in pool.run(batches, work, count):
            for file, content in zip(batch, contents, strict=True):
                _take(file, content)
            self.adopted += adopted
            progress.advance(task, sum(file.size for file in batch))
        progress.finish(task)

    def read(self, file: ContentFile) -> bytes:
        """The content if it is small or a symlink's target, else its digest."""
        kind = stat.S_IFMT(file.inode.mode)
        if kind not in (stat.S_IFREG, stat.S_IFLNK):
            what = f"stands for {Meta.of(file.inode).type_name}, but is not empty"
            raise bad_record(self._path, file.path, what)
        try:
            fd = open_below(self._fd, file.path, _FILE)
            try:
                before = os.fstat(fd)
                if (before.st_size, before.st_mtime_ns) != (file.size, file.mtime_ns):
                    raise changed(self._path, file.path)
                result = self._content(fd, file, kind)
                if os.fstat(fd).st_mtime_ns != file.mtime_ns:
                    raise changed(self._path, file.path)
                return result
            finally:
                os.close(fd)
        except OSError as error:
            raise named(error, self._path, file.path) from error

    def _content(self, fd: int, file: ContentFile, kind: int) -> bytes:
        size = file.size
        if kind == stat.S_IFLNK:
            return self._target(fd, file)
        if size <= INLINE_MAX:
            return self._whole(fd, file)
        if self._adopt and file.has_record and self._store is not None:
            adopted = self._adopt_file(fd, file.inode.nlink, self._store)
            if adopted is not None:
                return adopted
        if size <= _READ_SIZE:
            data = self._whole(fd, file)
            return fsverity.digest(data) if self._store is None else self._store.put(data)
        if self._store is None:
            digest = fsverity.digest_fd(fd)
            if os.fstat(fd).st_size != size:
                raise changed(self._path, file.path)
            return digest
        return self._store_large(fd, file, self._store)

    def _target(self, fd: int, file: ContentFile) -> bytes:
        """The target of a symlink for which a file stands."""
        if not 0 < file.size <= TARGET_MAX:
            what = f"a target of {file.size} bytes (1 to {TARGET_MAX})"
            raise bad_record(self._path, file.path, what)
        data = self._whole(fd, file)
        if b"\0" in data:
            raise bad_record(self._path, file.path, "a target with a NUL")
        return data

    def _whole(self, fd: int, file: ContentFile) -> bytes:
        """All of a small file."""
        data = os.read(fd, file.size + 1)
        if 0 < len(data) < file.size:  # a file system that reads in parts
            while len(data) <= file.size and (more := os.read(fd, file.size + 1 - len(data))):
                data += more
        if len(data) != file.size:
            raise changed(self._path, file.path)
        return data

    def _store_large(self, fd: int, file: ContentFile, store: ObjectStore) -> bytes:
        if self._share:
            shared = store.put_shared(fd)
            if shared is not None:
                return shared
            self._share = False
        with store.writer() as writer:
            while chunk := os.read(fd, _READ_SIZE):
                writer.write(chunk)
            if writer.size != file.size:
                raise changed(self._path, file.path)
            return writer.commit()

    def _adopt_file(self, fd: int, names: int, store: ObjectStore) -> bytes | None:
        """The digest of the file if it is an object now, or another is that has its content."""
        before = os.fstat(fd).st_nlink
        digest = store.adopt(fd, names)
        self._taken += digest is not None and os.fstat(fd).st_nlink > before
        return digest


def _take(file: ContentFile, content: bytes | None) -> None:
    inode = file.inode
    inode.size = file.size
    if stat.S_ISLNK(inode.mode):
        inode.payload = content
    elif file.size <= INLINE_MAX:
        inode.content = content
    elif content is not None:
        inode.digest = content
        inode.payload = object_path(content).encode()


def _batches(files: list[ContentFile]) -> list[list[ContentFile]]:
    """The files in pieces of about equal work, in order."""
    batches: list[list[ContentFile]] = []
    size = 0
    for file in files:
        if not batches or size > _BATCH or len(batches[-1]) >= _BATCH_FILES:
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += file.size
    return batches
