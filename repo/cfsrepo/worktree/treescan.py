"""A bare-user tree read back: the files of a directory as the tree that their records say.

A file with a record is what the record says. Its mtime is the record's as long as the file on disk
has it still; else the file was changed, and its time on disk counts.

A file without a record (an editor or a compiler made it) has the metadata of the same path in the
base image, if there is a file of the same type; else it belongs to 0:0 and has its mode on disk.
The content and the mtime are always those on disk. Real symlinks cannot have a record and are such
files; so are devices, FIFOs and sockets.

Rights changed on disk alone (chmod) do not count where there is a record, which is what
`cfs meta set --mode` changes; `Scan.chmodded` says how many files that concerns.

The directory may change meanwhile: no symlink is followed, and a file that changes while it is read
is an error. Contents are hashed and stored by several processes; large ones share their blocks with
the object where the file system can. With `adopt` the files become the objects, where that is safe
(`cfsrepo.store.hardlink`); a file without a record never does, since its rights on disk are its
metadata.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cfsrepo.errors import InputError, printable
from cfsrepo.formats import fsverity, metarecord
from cfsrepo.formats.metarecord import Meta
from cfsrepo.formats.tree import Inode, Xattrs, paused_gc
from cfsrepo.progress import Progress
from cfsrepo.store import hardlink
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.system import pool
from cfsrepo.worktree.treewriter import open_below

INLINE_MAX: Final = 64
TARGET_MAX: Final = 4095  # bytes of a symlink's target
_READ_SIZE: Final = 1 << 20
_BATCH: Final = 64 << 20
_BATCH_FILES: Final = 2000
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NO_RECORD: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(slots=True)
class _File:
    """A regular file on disk whose content is wanted."""

    path: bytes
    inode: Inode
    size: int
    mtime_ns: int
    has_record: bool


class Scan:
    """One reading of the directory `path`; `base` gives metadata to files without a record.

    `adopt`: make the files objects, instead of copying them. They must not be edited in place then.
    """

    def __init__(self, path: str, base: Inode | None = None, *, adopt: bool = False) -> None:
        self._path = path
        self._base = base
        self._adopt = adopt
        self._taken = 0  # files adopted by this process
        self._fd = -1
        self._share = True  # until the file system says that it cannot
        self._linked: dict[tuple[int, int], Inode] = {}
        self._files: list[_File] = []
        self._modes: list[tuple[Inode, os.stat_result]] = []  # where they are not the record's
        self.adopted = 0
        """Files that became objects."""
        self.without_record = 0
        """Files without a record, real symlinks left out."""
        self.chmodded = 0
        """Files whose permissions on disk are neither those that their record gives them nor those
        that an adopted file gets."""

    def run(
        self, store: ObjectStore | None, progress: Progress, *, workers: int | None = None
    ) -> Inode:
        """The tree; contents of more than `INLINE_MAX` bytes go into `store`, if there is one.

        Raises InputError, with the path, for a record that is none or contradicts its file.
        """
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with paused_gc():
                root = self._read_tree()
                self.chmodded = sum(
                    not hardlink.is_adopted(status, inode.nlink) for inode, status in self._modes
                )
                self._read_contents(store, progress, workers)
        finally:
            os.close(self._fd)
        return root

    # -- metadata ---------------------------------------------------------------------------------

    def _read_tree(self) -> Inode:
        info = os.fstat(self._fd)
        root = self._inode(b"", info, self._record(b"", f"/proc/self/fd/{self._fd}"), self._base)
        root.entries = {}
        pending: deque[tuple[bytes, Inode, Inode | None]] = deque([(b"", root, self._base)])
        while pending:
            path, directory, base = pending.popleft()
            fd = open_below(self._fd, path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                pending.extend(self._read_directory(fd, path, directory, base))
            finally:
                os.close(fd)
        return root

    def _read_directory(
        self, fd: int, path: bytes, directory: Inode, base: Inode | None
    ) -> Iterator[tuple[bytes, Inode, Inode | None]]:
        """Fill `directory`; yields the directories in it."""
        entries = directory.entries
        assert entries is not None
        base_entries = (base.entries if base is not None else None) or {}
        here = f"/proc/self/fd/{fd}/"
        directory.nlink = 2
        for text in os.listdir(fd):
            name = os.fsencode(text)
            below = path + b"/" + name if path else name
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                kind = stat.S_IFMT(info.st_mode)
                if kind != stat.S_IFDIR and info.st_nlink > 1:
                    known = self._linked.get((info.st_dev, info.st_ino))
                    if known is not None:
                        known.nlink += 1
                        entries[name] = known
                        continue
                has_record = kind in (stat.S_IFREG, stat.S_IFDIR)
                record = self._record(below, here + text) if has_record else None
                inode = self._inode(below, info, record, base_entries.get(name))
                if kind == stat.S_IFLNK:
                    inode.payload = os.readlink(name, dir_fd=fd)
                    inode.size = len(inode.payload)
            except OSError as error:
                raise self._named(error, below) from error
            entries[name] = inode
            if kind == stat.S_IFDIR:
                inode.entries = {}
                directory.nlink += 1
                yield below, inode, base_entries.get(name)
            elif info.st_nlink > 1:
                self._linked[info.st_dev, info.st_ino] = inode
            if kind == stat.S_IFREG and (info.st_size or stat.S_ISLNK(inode.mode)):
                self._files.append(
                    _File(below, inode, info.st_size, info.st_mtime_ns, record is not None)
                )

    def _record(self, path: bytes, proc_path: str) -> Meta | None:
        try:
            record = os.getxattr(proc_path, metarecord.NAME)
        except OSError as error:
            if error.errno in _NO_RECORD:
                return None
            raise
        try:
            return metarecord.decode(record)
        except InputError as error:
            raise self._bad(path, str(error), error.hint) from error

    def _inode(
        self, path: bytes, info: os.stat_result, record: Meta | None, base: Inode | None
    ) -> Inode:
        """The inode of a file on disk, without content."""
        sec, nsec = divmod(info.st_mtime_ns, 1_000_000_000)
        mode = info.st_mode
        if record is not None:
            try:
                metarecord.check_type(record, mode)
            except InputError as error:
                raise self._bad(path, str(error), None) from error
            if metarecord.same_time(record, sec, nsec):
                sec, nsec = record.mtime_sec, record.mtime_nsec
            inode = Inode(
                record.mode,
                uid=record.uid,
                gid=record.gid,
                rdev=record.rdev,
                mtime_sec=sec,
                mtime_nsec=nsec,
                xattrs=record.xattrs or None,
            )
            if stat.S_IMODE(mode) != metarecord.disk_mode(record.mode):
                self._modes.append((inode, info))
            return inode
        kind = stat.S_IFMT(mode)
        self.without_record += kind != stat.S_IFLNK
        uid = gid = 0
        xattrs: Xattrs | None = None
        if base is not None and stat.S_IFMT(base.mode) == kind:
            mode, uid, gid = base.mode, base.uid, base.gid
            xattrs = dict(base.xattrs) if base.xattrs else None
        device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        return Inode(
            mode,
            uid=uid,
            gid=gid,
            rdev=info.st_rdev & 0xFFFFFFFF if device else 0,
            mtime_sec=sec,
            mtime_nsec=nsec,
            xattrs=xattrs,
        )

    # -- contents ---------------------------------------------------------------------------------

    def _read_contents(
        self, store: ObjectStore | None, progress: Progress, workers: int | None
    ) -> None:
        task = "contents"
        progress.start(task, sum(file.size for file in self._files))
        batches = _batches(self._files)

        def read(batch: int) -> tuple[list[bytes | None], int]:
            before = self._taken
            return [self._read(file, store) for file in batches[batch]], self._taken - before

        count = 1 if len(batches) < 2 else workers
        for number, (contents, adopted) in pool.run(range(len(batches)), read, count):
            for file, content in zip(batches[number], contents, strict=True):
                self._take(file, content)
            self.adopted += adopted
            progress.advance(task, sum(file.size for file in batches[number]))
        progress.finish(task)

    def _take(self, file: _File, content: bytes | None) -> None:
        inode = file.inode
        inode.size = file.size
        if stat.S_ISLNK(inode.mode):
            inode.payload = content
        elif file.size <= INLINE_MAX:
            inode.content = content
        elif content is not None:
            inode.digest = content
            inode.payload = object_path(content).encode()

    def _read(self, file: _File, store: ObjectStore | None) -> bytes | None:
        """The content if it is small or a symlink's target, else its digest; None if empty."""
        path, inode, size = file.path, file.inode, file.size
        kind = stat.S_IFMT(inode.mode)
        if kind not in (stat.S_IFREG, stat.S_IFLNK):
            raise self._bad(path, f"stands for {Meta.of(inode).type_name}, but is not empty", None)
        try:
            fd = open_below(self._fd, path, _FILE)
            try:
                before = os.fstat(fd)
                if (before.st_size, before.st_mtime_ns) != (size, file.mtime_ns):
                    raise self._changed(path)
                result = self._content(fd, file, kind, store)
                if os.fstat(fd).st_mtime_ns != file.mtime_ns:
                    raise self._changed(path)
                return result
            finally:
                os.close(fd)
        except OSError as error:
            raise self._named(error, path) from error

    def _content(self, fd: int, file: _File, kind: int, store: ObjectStore | None) -> bytes:
        size = file.size
        if kind == stat.S_IFLNK and not 0 < size <= TARGET_MAX:
            raise self._bad(file.path, f"a target of {size} bytes (1 to {TARGET_MAX})", None)
        if self._adopt and file.has_record and kind == stat.S_IFREG and size > INLINE_MAX:
            adopted = self._adopt_file(fd, file.inode.nlink, store)
            if adopted is not None:
                return adopted
        if size <= _READ_SIZE:
            data = os.read(fd, size + 1)
            if len(data) != size:
                raise self._changed(file.path)
            if kind == stat.S_IFLNK and b"\0" in data:
                raise self._bad(file.path, "a target with a NUL", None)
            if size <= INLINE_MAX or kind == stat.S_IFLNK:
                return data
            return fsverity.digest(data) if store is None else store.put(data)
        if store is None:
            digest = fsverity.digest_fd(fd)
            if os.fstat(fd).st_size != size:
                raise self._changed(file.path)
            return digest
        if self._share:
            shared = store.put_shared(fd)
            if shared is not None:
                return shared
            self._share = False
        with store.writer() as writer:
            while chunk := os.read(fd, _READ_SIZE):
                writer.write(chunk)
            if writer.size != size:
                raise self._changed(file.path)
            return writer.commit()

    def _adopt_file(self, fd: int, names: int, store: ObjectStore | None) -> bytes | None:
        """The digest of the file if it is an object now, or another is that has its content."""
        if store is None:
            return None
        before = os.fstat(fd).st_nlink
        digest = store.adopt(fd, names)
        self._taken += digest is not None and os.fstat(fd).st_nlink > before
        return digest

    # -- errors -----------------------------------------------------------------------------------

    def _shown(self, path: bytes) -> str:
        return printable(os.path.join(os.fsencode(self._path), path) if path else self._path)

    def _bad(self, path: bytes, what: str, hint: str | None) -> InputError:
        return InputError(
            f"{self._shown(path)}: {what}", hint=hint or "'cfs meta set' gives it a new record"
        )

    def _changed(self, path: bytes) -> InputError:
        return InputError(f"{self._shown(path)}: changed while it was read", hint="run it again")

    def _named(self, error: OSError, path: bytes) -> OSError:
        return OSError(error.errno, error.strerror, self._shown(path))


def _batches(files: list[_File]) -> list[list[_File]]:
    """The files in pieces of about equal work, in order."""
    batches: list[list[_File]] = []
    size = 0
    for file in files:
        if not batches or size > _BATCH or len(batches[-1]) >= _BATCH_FILES:
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += file.size
    return batches
