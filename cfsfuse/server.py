"""The FUSE server of an `ImageView` that talks to the kernel itself.

An image never changes and its inodes have stable numbers, so this server has no state for what is
open: a read names its inode. It answers OPEN and OPENDIR with "not implemented", upon which the
kernel stops sending them (and RELEASE, RELEASEDIR), keeps file data and directories in its caches
and serves everything it has seen before without asking. Libraries for FUSE hand a file handle to
their `read`, and no inode; that is why this one reads /dev/fuse by itself.

FUSE's number of an inode is its nid, but 1 for the root. (No nid is below 36, where the inodes of
an image begin.)

One thread reads requests and answers at once what needs no disk. Reads that may wait for the disk,
or compute for long, go to a few threads, which answer by themselves: a slow disk does not hold up
metadata.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import queue
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, Self

from cfsfuse import protocol
from cfsfuse.protocol import (
    ACCESS_IN,
    ATTR_OUT,
    DIRENT,
    DIRENT_SIZE,
    ENTRY_OUT,
    ENTRY_SIZE,
    GETXATTR_IN,
    GETXATTR_OUT,
    IN_HEADER,
    INIT_IN,
    INIT_OUT,
    OUT_HEADER,
    READ_IN,
    ROOT_ID,
    STATFS_OUT,
    Opcode,
)
from cfsfuse.reading import FileReader
from cfsfuse.view import BLOCK_SIZE, ImageView, stat_blocks
from cfsfuse.xattrscan import XattrScan
from cfsrepo.errors import CfsError

log = logging.getLogger(__name__)

# The kernel may keep every answer; it forgets when it needs the memory.
_VALID: Final = 365 * 86400
_READERS: Final = 8
_MAX_PAGES: Final = 256  # of a read: 1 MiB
_MAX_READAHEAD: Final = 1 << 20
_MAX_BACKGROUND: Final = 64
_HEADER_SIZE: Final = IN_HEADER.size
_NANOSECONDS_MAX: Final = 999_999_999
_WANTED: Final = (
    protocol.FLAG_ASYNC_READ
    | protocol.FLAG_EXPORT_SUPPORT
    | protocol.FLAG_DO_READDIRPLUS
    | protocol.FLAG_NO_OPEN_SUPPORT
    | protocol.FLAG_PARALLEL_DIROPS
    | protocol.FLAG_MAX_PAGES
    | protocol.FLAG_CACHE_SYMLINKS
    | protocol.FLAG_NO_OPENDIR_SUPPORT
    | protocol.FLAG_EXPLICIT_INVAL_DATA
)
_OPCODES: Final = frozenset(Opcode)
_PADDING: Final = tuple(bytes(-length % 8) for length in range(8))
_ABSENT: Final = ENTRY_OUT.pack(0, 0, _VALID, *[0] * (19))

Body = bytes | bytearray | memoryview
Handler = Callable[["Request"], Body | None]


class Request:
    """One request; `body` is what follows its header."""

    __slots__ = ("body", "nodeid", "opcode", "uid", "unique")

    def __init__(self, opcode: int, unique: int, nodeid: int, uid: int, body: bytes) -> None:
        self.opcode = opcode
        self.unique = unique
        self.nodeid = nodeid
        self.uid = uid
        self.body = body


class _Terminated(BaseException):
    """SIGTERM or SIGINT came while waiting for a request."""


class Server:
    """Serves `view` on the FUSE connection `fd`, which it owns. A context manager.

    `trusted`: root may use the mount, so that attributes of the class `trusted` count.
    """

    def __init__(self, view: ImageView, fd: int, *, trusted: bool = True) -> None:
        self._view = view
        self._fd = fd
        self._root = view.root
        self._reader = FileReader(view)
        self._scan = XattrScan(view, trusted=trusted)
        self._slow: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.requests: Counter[int] = Counter()
        self._handlers: dict[int, Handler] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.READ: self._read,
            Opcode.STATFS: self._statfs,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.ACCESS: self._access,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._forget,
            **dict.fromkeys(protocol.WRITING, self._write),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection: after this the mount, if it is still there, is dead."""
        for _thread in self._threads:
            self._slow.put(None)
        for thread in self._threads:
            thread.join()
        self._reader.close()
        os.close(self._fd)

    def numbers(self) -> dict[str, Any]:
        """Requests by kind, and reads that found their file open."""
        requests = {
            Opcode(opcode).name.lower() if opcode in _OPCODES else str(opcode): count
            for opcode, count in sorted(self.requests.items())
        }
        return {
            "requests": sum(self.requests.values()),
            "by_request": requests,
            "cache_hits": self._reader.hits,
        }

    # --- the loop --------------------------------------------------------------------------------

    def run(self, ready: Callable[[], None]) -> bool:
        """Serve until unmounted (True), or until SIGTERM or SIGINT (False).

        `ready` is called when the session has begun: the mount answers from then on.
        """
        self._negotiate()
        ready()
        gc.collect()
        gc.freeze()  # what exists now lives as long as the server: never scan it again
        with _raising_on_signals():
            try:
                self._loop()
            except _Terminated:
                return False
        return True

    def _negotiate(self) -> None:
        while True:
            request = self._next(bytearray(protocol.READ_BUFFER_MIN))
            if request is None:
                raise OSError(errno.ENODEV, "unmounted before it was used")
            if request.opcode == Opcode.INIT:
                break
            self._reply_error(request, errno.EIO)
        major, minor, readahead, flags = INIT_IN.unpack_from(request.body)
        if major != protocol.MAJOR or minor < protocol.MINOR_MIN:
            self._reply_error(request, errno.EPROTO)
            raise OSError(errno.EPROTO, f"the kernel's FUSE {major}.{minor} is too old")
        body = INIT_OUT.pack(
            protocol.MAJOR,
            protocol.MINOR,
            max(readahead, _MAX_READAHEAD),
            flags & _WANTED,
            _MAX_BACKGROUND,
            _MAX_BACKGROUND * 3 // 4,
            BLOCK_SIZE,  # max_write: never used, but bounds the buffer that requests need
            1,
            _MAX_PAGES,
            0,
            0,
            0,
        )
        self._reply(request, body)

    def _next(self, buffer: bytearray) -> Request | None:
        """The next request; None when the mount is gone."""
        while True:
            try:
                length = os.readv(self._fd, (buffer,))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return None
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # a request that was interrupted before we had it
                raise
            if length < _HEADER_SIZE:
                return None
            _, opcode, unique, nodeid, uid, _gid, _pid, _ext = IN_HEADER.unpack_from(buffer)
            return Request(opcode, unique, nodeid, uid, bytes(buffer[_HEADER_SIZE:length]))

    def _loop(self) -> None:
        # Twice what is needed: the kernel insists on room for a header and the largest write.
        buffer = bytearray(2 * protocol.READ_BUFFER_MIN)
        handlers = self._handlers
        requests = self.requests
        while (request := self._next(buffer)) is not None:
            requests[request.opcode] += 1
            if request.opcode == Opcode.DESTROY:
                self._reply(request, b"")
                continue
            handler = handlers.get(request.opcode)
            if handler is None:
                self._reply_error(request, errno.ENOSYS)
                continue
            self._answer(request, handler)
            self._scan.step()

    def _answer(self, request: Request, handler: Handler) -> None:
        try:
            body = handler(request)
        except (OSError, CfsError) as error:
            self._fail(request, error)
            return
        if body is not None:
            self._reply(request, body)

    def _reply(self, request: Request, body: Body) -> None:
        header = OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, request.unique)
        self._send(header, body)

    def _reply_error(self, request: Request, code: int) -> None:
        self._send(protocol.error_reply(request.unique, code))

    def _send(self, *parts: Body) -> None:
        try:
            os.writev(self._fd, parts)
        except OSError as error:
            # ENOENT: the caller was killed meanwhile and nobody waits for the reply any more.
            # ENODEV, ENOTCONN: unmounted; the loop ends with its next read.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                raise

    def _fail(self, request: Request, error: OSError | CfsError) -> None:
        code = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        self._reply_error(request, code)
        if code == errno.EIO:
            nid = self._nid(request.nodeid)
            self._later(lambda: self._reader.report(nid, error))

    # --- threads ---------------------------------------------------------------------------------

    def _later(self, work: Callable[[], object]) -> None:
        """Let a thread do `work`."""
        if not self._threads or (self._slow.qsize() and len(self._threads) < _READERS):
            thread = threading.Thread(target=self._work, name=f"reader-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()
        self._slow.put(work)

    def _work(self) -> None:
        while True:
            item = self._slow.get()
            if item is None:
                return
            item()

    # --- requests --------------------------------------------------------------------------------

    def _nid(self, nodeid: int) -> int:
        return self._root if nodeid == ROOT_ID else nodeid

    def _attributes(self, nid: int) -> tuple[int, ...]:
        inode = self._view.attributes(nid)
        seconds = inode.mtime_sec
        nanoseconds = min(inode.mtime_nsec, _NANOSECONDS_MAX)
        return (
            nid,
            inode.size,
            stat_blocks(inode.size),
            seconds,
            seconds,
            seconds,
            nanoseconds,
            nanoseconds,
            nanoseconds,
            inode.mode,
            inode.nlink,
            inode.uid,
            inode.gid,
            inode.rdev,
            BLOCK_SIZE,
            0,
        )

    def _entry(self, nid: int) -> bytes:
        nodeid = ROOT_ID if nid == self._root else nid
        return ENTRY_OUT.pack(nodeid, 0, _VALID, _VALID, 0, 0, *self._attributes(nid))

    def _lookup(self, request: Request) -> bytes:
        parent = self._nid(request.nodeid)
        name = request.body[:-1]
        # "." of any inode: the kernel wants back what an NFS client has a handle of.
        nid = parent if name == b"." else self._view.lookup(parent, name)
        return _ABSENT if nid is None else self._entry(nid)

    def _getattr(self, request: Request) -> bytes:
        return ATTR_OUT.pack(_VALID, 0, 0, *self._attributes(self._nid(request.nodeid)))

    def _readlink(self, request: Request) -> bytes:
        return self._view.readlink(request.nodeid)

    def _access(self, request: Request) -> bytes:
        """Reading is granted whatever the mode says; executing a file needs an `x` somewhere."""
        mask, _ = ACCESS_IN.unpack_from(request.body)
        if mask & os.W_OK:
            raise OSError(errno.EROFS, "")
        if mask & os.X_OK:
            mode = self._view.attributes(self._nid(request.nodeid)).mode
            if not (stat.S_ISDIR(mode) or mode & 0o111):
                raise OSError(errno.EACCES, "")
        return b""

    def _statfs(self, request: Request) -> bytes:
        usage = self._view.usage()
        return STATFS_OUT.pack(
            usage.blocks, 0, 0, usage.files, 0, BLOCK_SIZE, usage.name_max, BLOCK_SIZE
        )

    def _forget(self, request: Request) -> None:
        """Nothing is remembered for an inode. This request gets no reply."""

    def _write(self, request: Request) -> bytes:
        """Mounted read-only, so the kernel sends none of these unless root remounts it."""
        raise OSError(errno.EROFS, "")

    def _readdir(self, request: Request) -> Body:
        _, offset, size, *_ = READ_IN.unpack_from(request.body)
        reply = bytearray()
        for position, name, nid in self._view.readdir(self._nid(request.nodeid), offset):
            length = len(name)
            if len(reply) + DIRENT_SIZE + length + 7 > size:
                break
            kind = self._view.attributes(nid).mode >> 12
            reply += DIRENT.pack(nid, position, length, kind)
            reply += name
            reply += _PADDING[length & 7]
        return reply

    def _readdirplus(self, request: Request) -> Body:
        _, offset, size, *_ = READ_IN.unpack_from(request.body)
        reply = bytearray()
        room = size - ENTRY_SIZE - DIRENT_SIZE - 7
        attributes = self._attributes
        root = self._root
        for position, name, nid in self._view.readdir(self._nid(request.nodeid), offset):
            length = len(name)
            if len(reply) + length > room:
                break
            shown = attributes(nid)
            nodeid = ROOT_ID if nid == root else nid
            reply += ENTRY_OUT.pack(nodeid, 0, _VALID, _VALID, 0, 0, *shown)
            reply += DIRENT.pack(nid, position, length, shown[9] >> 12)
            reply += name
            reply += _PADDING[length & 7]
        return reply

    def _read(self, request: Request) -> Body | None:
        _, offset, size, *_ = READ_IN.unpack_from(request.body)
        nid = request.nodeid
        data = self._reader.read_ready(nid, offset, size)
        if data is None:
            self._later(
                lambda: self._answer(request, lambda _: self._reader.read(nid, offset, size))
            )
        return data

    def _getxattr(self, request: Request) -> bytes:
        self._refuse_xattrs_where_none()
        size, _ = GETXATTR_IN.unpack_from(request.body)
        name = request.body[GETXATTR_IN.size : -1]
        # The kernel itself keeps `trusted.*` from who may not see it.
        value = self._view.xattrs(self._nid(request.nodeid), trusted=True).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "")
        return _sized(value, size)

    def _listxattr(self, request: Request) -> bytes:
        self._refuse_xattrs_where_none()
        size, _ = GETXATTR_IN.unpack_from(request.body)
        names = self._view.xattrs(self._nid(request.nodeid), trusted=request.uid == 0)
        return _sized(b"".join(name + b"\0" for name in names), size)

    def _refuse_xattrs_where_none(self) -> None:
        """ENOSYS makes the kernel stop asking, for this mount, for good."""
        if self._scan.found_none:
            raise OSError(errno.ENOSYS, "")


@contextmanager
def _raising_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise `_Terminated` in the main thread."""

    def terminate(number: int, _frame: object) -> NoReturn:
        log.info("ending on %s", signal.Signals(number).name)
        raise _Terminated

    old = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _sized(value: bytes, size: int) -> bytes:
    """The reply to who has room for `size` bytes; 0 asks for the size only."""
    if size == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "")
    return value
