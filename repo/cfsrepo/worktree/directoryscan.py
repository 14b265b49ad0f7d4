"""A directory on disk as a tree, as composefs's `mkcomposefs DIR` takes it, and with hard links.

Every file of more than 64 bytes becomes an object, named by its fs-verity digest; smaller ones are
kept in the image. Extended attributes are taken as they are. A file with several names inside the
directory is one inode; its link count is the number of those names.

The directory may change meanwhile: no symlink in it is followed, and a file whose content does not
have the size that it had when it was listed is an error.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final

from cfsrepo.errors import InputError, printable
from cfsrepo.formats import fsverity
from cfsrepo.formats.tree import Inode, Xattrs, paused_gc
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.system import linux

INLINE_MAX: Final = 64  # bytes of a file that is kept in the image

_READ_SIZE: Final = 1 << 20
_STEP_MAX: Final = 4000  # bytes of a path that one system call takes
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO put there instead: no wait
_RESOLVE: Final = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS
_NO_XATTRS: Final = frozenset({errno.ENOTSUP, errno.ENOSYS})


class KeptXattrs(StrEnum):
    """Which extended attributes are taken."""

    ALL = "all"
    USER = "user"  # those that begin with `user.`
    NONE = "none"


def scan_directory(
    path: str,
    *,
    xattrs: KeptXattrs = KeptXattrs.ALL,
    use_epoch: bool = False,
    skip_devices: bool = False,
    store: ObjectStore | None = None,
    threads: int = 1,
) -> Inode:
    """The tree below the directory `path`.

    use_epoch: all mtimes are 0. skip_devices: without block and character devices (whiteouts are
    some). store: objects are stored there. threads: files read at a time.

    Raises OSError, with the path, for what cannot be read; InputError for a file that changed.
    """
    root_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with paused_gc():
            scan = _Scan(path, root_fd, xattrs, use_epoch, skip_devices)
            root = scan.run()
        _Contents(path, root_fd, store).fill(scan.files, threads)
    finally:
        os.close(root_fd)
    return root


def _open_below(root_fd: int, path: bytes, flags: int) -> int:
    """Open `path` below `root_fd`, however long it is, through no symlink."""
    if len(path) <= _STEP_MAX:
        return linux.openat2(root_fd, path or b".", flags, resolve=_RESOLVE)
    fd = root_fd
    try:
        while path:
            cut = len(path) if len(path) <= _STEP_MAX else path.rindex(b"/", 0, _STEP_MAX)
            step, path = path[:cut], path[cut + 1 :]
            way = flags if not path else os.O_PATH | os.O_DIRECTORY
            above, fd = fd, linux.openat2(fd, step, way, resolve=_RESOLVE)
            if above != root_fd:
                os.close(above)
    except OSError:
        if fd != root_fd:
            os.close(fd)
        raise
    return fd


class _Scan:
    """Lists directories, one open at a time, breadth first: depth costs nothing."""

    def __init__(
        self, path: str, root_fd: int, xattrs: KeptXattrs, use_epoch: bool, skip_devices: bool
    ) -> None:
        self._path = path
        self._root_fd = root_fd
        self._kept = xattrs
        self._use_epoch = use_epoch
        self._skip_devices = skip_devices
        self._linked: dict[tuple[int, int], Inode] = {}
        self.files: list[tuple[bytes, Inode]] = []  # regular files that are not empty

    def run(self) -> Inode:
        info = os.fstat(self._root_fd)
        root = self._inode(info, self._xattrs(b"/proc/self/fd/%d" % self._root_fd, b"", True))
        root.entries = {}
        pending = [(b"", root)]
        for path, directory in pending:
            try:
                fd = _open_below(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    pending.extend(self._list(fd, path, directory))
                finally:
                    os.close(fd)
            except OSError as error:
                raise _named(error, self._path, path) from error
        return root

    def _list(self, fd: int, path: bytes, directory: Inode) -> Iterator[tuple[bytes, Inode]]:
        """Fill `directory`; yields the directories in it."""
        entries = directory.entries
        assert entries is not None
        here = b"/proc/self/fd/%d/" % fd
        for name in map(os.fsencode, os.listdir(fd)):
            below = path + b"/" + name if path else name
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                mode = info.st_mode
                if self._skip_devices and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                    continue
                if info.st_nlink > 1 and not stat.S_ISDIR(mode):
                    key = info.st_dev, info.st_ino
                    known = self._linked.get(key)
                    if known is not None:
                        known.nlink += 1
                        entries[name] = known
                        continue
                inode = self._inode(info, self._xattrs(here + name, below, False))
                if stat.S_ISLNK(mode):
                    inode.payload = os.readlink(name, dir_fd=fd)
                    inode.size = len(inode.payload)
            except OSError as error:
                raise _named(error, self._path, below) from error
            entries[name] = inode
            if stat.S_ISDIR(mode):
                inode.entries = {}
                yield below, inode
            elif info.st_nlink > 1:
                self._linked[info.st_dev, info.st_ino] = inode
            if stat.S_ISREG(mode) and info.st_size:
                self.files.append((below, inode))

    def _inode(self, info: os.stat_result, xattrs: Xattrs | None) -> Inode:
        inode = Inode(info.st_mode)
        inode.uid, inode.gid = info.st_uid, info.st_gid
        inode.rdev = info.st_rdev & 0xFFFFFFFF
        inode.size = info.st_size
        if not self._use_epoch:
            inode.mtime_sec, inode.mtime_nsec = divmod(info.st_mtime_ns, 1_000_000_000)
        inode.xattrs = xattrs
        return inode

    def _xattrs(self, proc_path: bytes, path: bytes, follow: bool) -> Xattrs | None:
        if self._kept is KeptXattrs.NONE:
            return None
        try:
            names = os.listxattr(proc_path, follow_symlinks=follow)
            if self._kept is KeptXattrs.USER:
                names = [name for name in names if name.startswith("user.")]
            if not names:
                return None
            return {
                os.fsencode(name): os.getxattr(proc_path, name, follow_symlinks=follow)
                for name in names
            }
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return None
            raise _named(error, self._path, path) from error


class _Contents:
    """Reads files: small ones into the tree, others for their digests and into the store."""

    def __init__(self, path: str, root_fd: int, store: ObjectStore | None) -> None:
        self._path = path
        self._root_fd = root_fd
        self._store = store
        self._stop = threading.Event()

    def fill(self, files: list[tuple[bytes, Inode]], threads: int) -> None:
        todo = iter(files)  # `next` on a list's iterator is one step: threads may share it
        if threads <= 1 or len(files) < 2:
            self._work(todo)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="cfs-scan") as pool:
            workers = [pool.submit(self._work, todo) for _ in range(threads)]
            for worker in workers:
                worker.result()

    def _work(self, todo: Iterator[tuple[bytes, Inode]]) -> None:
        try:
            for path, inode in todo:
                if self._stop.is_set():
                    return
                try:
                    fd = _open_below(self._root_fd, path, _FLAGS)
                    try:
                        self._read(fd, path, inode)
                    finally:
                        os.close(fd)
                except OSError as error:
                    raise _named(error, self._path, path) from error
        except BaseException:
            self._stop.set()
            raise

    def _read(self, fd: int, path: bytes, inode: Inode) -> None:
        size = inode.size
        if size <= _READ_SIZE:
            data = os.read(fd, size + 1)
            if 0 < len(data) < size:  # a file system that reads in parts
                while len(data) <= size and (chunk := os.read(fd, size + 1 - len(data))):
                    data += chunk
            if len(data) != size:
                raise self._changed(path)
            if size <= INLINE_MAX:
                inode.content = data
                return
            digest = fsverity.digest(data) if self._store is None else self._store.put(data)
        elif self._store is None:
            hasher = fsverity.Hasher()
            while chunk := os.read(fd, _READ_SIZE):
                hasher.update(chunk)
            if hasher.size != size:
                raise self._changed(path)
            digest = hasher.digest()
        else:
            with self._store.writer() as writer:
                while chunk := os.read(fd, _READ_SIZE):
                    writer.write(chunk)
                if writer.size != size:
                    raise self._changed(path)
                digest = writer.commit()
        inode.digest = digest
        inode.payload = object_path(digest).encode()

    def _changed(self, path: bytes) -> InputError:
        shown = printable(os.path.join(os.fsencode(self._path), path))
        return InputError(f"{shown}: changed while it was read", hint="run it again")


def _named(error: OSError, root: str, path: bytes) -> OSError:
    """`error` with the whole path of the file."""
    whole = os.path.join(os.fsencode(root), path) if path else os.fsencode(root)
    return OSError(error.errno, error.strerror, os.fsdecode(whole))
