"""The FUSE server of an `ImageView` that talks to the kernel itself.

An image never changes and its inodes have stable numbers, so nothing is kept for what is
open: a read names its inode. It answers OPEN and OPENDIR with "not implemented", upon which the
kernel stops sending them (and RELEASE, RELEASEDIR), keeps file data and directories in its caches
and serves everything it has seen before without asking. Libraries for FUSE hand a file handle to
their `read`, and no inode; so this one reads /dev/fuse by itself.

It is kept beside the default engine, pyfuse3 with the build of `tools/pyfuse3`, until it is sure
that that costs nothing more. Wall time of pyfuse3 by that of this engine, image of 1.3 GB, two
cores, one round (`tools/bench/README.md`; three pairs before gave 1.29 and 1.25 to cold ls, stat):

    cold   find 0.85  ls -lR 0.94  stat 0.98  getfattr 0.74  tar 1.05  cat of all, 4 at once 1.24
    warm   stat 0.82  getfattr 0.66  tar 1.07  cat of all 0.69

FUSE's number of an inode is its nid, but 1 for the root: the inodes of an image begin at 36.

A few threads take turns: whichever is free takes the next request and answers it, without handing
it to another. Reads of files may wait for the disk; one thread fewer than there are may do so at a
time, further reads queue up for these, and the last thread always answers metadata.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from cfsfuse.engines import protocol
from cfsfuse.engines.protocol import (
    ACCESS_IN,
    ATTR_OUT,
    DIRENT,
    DIRENT_SIZE,
    ENTRY_OUT,
    ENTRY_PLUS,
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
from cfsfuse.signals import ENDING, endings_blocked
from cfsrepo.errors import CfsError, InputError
from cfsrepo.images.view import BLOCK_SIZE, ImageView, refused_access, stat_blocks
from cfsrepo.images.xattrscan import XattrScan
from cfsrepo.system.closing import Closing

log = logging.getLogger(__name__)

# The kernel may keep every answer; it forgets when it needs the memory.
_VALID: Final = 365 * 86400
_THREADS: Final = 6
_PATIENCE: Final = 1.0  # seconds for a thread to notice that the mount is gone
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
_NO_ENTRY: Final = bytes(ENTRY_SIZE)
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


class Server(Closing):
    """Serves `view` on the FUSE connection `fd`, which it owns. A context manager.

    `trusted`: root may use the mount, so that attributes of the class `trusted` count.
    """

    def __init__(self, view: ImageView, fd: int, *, trusted: bool = True) -> None:
        self._view = view
        self._fd = fd
        self._root = view.root
        self._reader = FileReader(view)
        self._scan = XattrScan(view, trusted=trusted)
        self._threads: list[threading.Thread] = []
        # A thread that holds one may wait for the disk; without one it queues its read.
        self._slots = threading.Semaphore(_THREADS - 1)
        self._queued: deque[Request] = deque()
        self._counts: list[Counter[int]] = []  # of requests, one for each thread
        self._failure: BaseException | None = None
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
            Opcode.DESTROY: self._destroy,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._forget,
            **dict.fromkeys(protocol.WRITING, self._write),
        }

    def close(self) -> None:
        """Close the connection: after this the mount, if it is still there, is dead.

        Where files of a detached mount are still in use, threads stay until the process ends.
        """
        for thread in self._threads:
            thread.join(_PATIENCE)
        if not any(thread.is_alive() for thread in self._threads):
            self._reader.close()
            os.close(self._fd)

    def numbers(self) -> dict[str, Any]:
        """Requests by kind, and reads that found their file open."""
        total: Counter[int] = Counter()
        for counts in self._counts:
            total.update(counts)
        return {
            "requests": sum(total.values()),
            "by_request": {_name(opcode): count for opcode, count in sorted(total.items())},
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
        with endings_blocked():
            for number in range(1, _THREADS):
                thread = threading.Thread(target=self._loop, name=f"fuse-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        with _raising_on_signals():
            try:
                self._loop()
            except _Terminated:
                return False
        if self._failure is not None:
            raise self._failure
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
        """Take requests and answer them until the mount is gone; what every thread does."""
        # Twice what is needed: the kernel insists on room for a header and the largest write.
        buffer = bytearray(2 * protocol.READ_BUFFER_MIN)
        handlers = self._handlers
        counts: Counter[int] = Counter()
        self._counts.append(counts)
        try:
            while (request := self._next(buffer)) is not None:
                counts[request.opcode] += 1
                handler = handlers.get(request.opcode)
                if handler is None:
                    self._reply_error(request, errno.ENOSYS)
                else:
                    self._answer(request, handler)
        except Exception as error:
            log.exception("a thread of the server ended")
            self._failure = error
            raise

    def _answer(self, request: Request, handler: Handler) -> None:
        try:
            body = handler(request)
        except (OSError, CfsError) as error:
            self._fail(request, error)
            return
        except Exception:
            # A defect here must not leave somebody waiting for ever.
            log.exception("request %s of inode %d", _name(request.opcode), request.nodeid)
            self._reply_error(request, errno.EIO)
            return
        if body is not None:
            self._reply(request, body)

    def _reply(self, request: Request, body: Body) -> None:
        header = OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, request.unique)
        try:
            self._send(header, body)
        except OSError as error:
            log.error("reply to %s of inode %d: %s", _name(request.opcode), request.nodeid, error)
            self._reply_error(request, errno.EIO)

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
            self._reader.report(self._nid(request.nodeid), error)

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
        """access(2) by the one who mounted."""
        mask, _ = ACCESS_IN.unpack_from(request.body)
        mode = self._view.attributes(self._nid(request.nodeid)).mode
        code = refused_access(mode, mask)
        if code:
            raise OSError(code, "")
        return b""

    def _statfs(self, request: Request) -> bytes:
        usage = self._view.usage()
        return STATFS_OUT.pack(
            usage.blocks, 0, 0, usage.files, 0, BLOCK_SIZE, usage.name_max, BLOCK_SIZE
        )

    def _forget(self, request: Request) -> None:
        """Nothing is remembered for an inode. This request gets no reply."""

    def _destroy(self, request: Request) -> bytes:
        """The last request; the next read says that the mount is gone."""
        return b""

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
            try:
                kind = self._view.attributes(nid).mode >> 12
            except InputError:
                kind = 0
            reply += DIRENT.pack(nid, position, length, kind)
            reply += name
            reply += _PADDING[length & 7]
        return reply

    def _readdirplus(self, request: Request) -> Body:
        _, offset, size, *_ = READ_IN.unpack_from(request.body)
        reply = bytearray()
        room = size - ENTRY_SIZE - DIRENT_SIZE - 7
        attributes = self._view.attributes
        pack = ENTRY_PLUS.pack
        root = self._root
        for position, name, nid in self._view.readdir(self._nid(request.nodeid), offset):
            length = len(name)
            if len(reply) + length > room:
                break
            try:
                inode = attributes(nid)
            except InputError:
                # A damaged inode is an error of its own, not of the directory: no attributes.
                reply += _NO_ENTRY
                reply += DIRENT.pack(nid, position, length, 0)
            else:
                # One call for it all: this is where listing a directory spends its time.
                _, _, mode, uid, gid, rdev, bytes_, nlink, sec, nsec, _, _, _, _ = inode
                if nsec > _NANOSECONDS_MAX:
                    nsec = _NANOSECONDS_MAX
                # fmt: off
                reply += pack(
                    ROOT_ID if nid == root else nid, 0, _VALID, _VALID, 0, 0,
                    nid, bytes_, stat_blocks(bytes_), sec, sec, sec, nsec, nsec, nsec,
                    mode, nlink, uid, gid, rdev, BLOCK_SIZE, 0,
                    nid, position, length, mode >> 12,
                )
                # fmt: on
            reply += name
            reply += _PADDING[length & 7]
        return reply

    def _read(self, request: Request) -> Body | None:
        if self._slots.acquire(blocking=False):
            try:
                return self._read_waiting(request)
            finally:
                self._work_off()
        # The last thread that is free: it must not wait for the disk.
        _, offset, size, *_ = READ_IN.unpack_from(request.body)
        data = self._reader.read_ready(request.nodeid, offset, size)
        if data is None:
            self._queued.append(request)
            if self._slots.acquire(blocking=False):  # all others may have looked before
                self._work_off()
        return data

    def _read_waiting(self, request: Request) -> Body:
        _, offset, size, *_ = READ_IN.unpack_from(request.body)
        return self._reader.read(request.nodeid, offset, size)

    def _work_off(self) -> None:
        """Answer the reads that queued up, then give back the slot that is held."""
        while True:
            try:
                while True:
                    self._answer(self._queued.popleft(), self._read_waiting)
            except IndexError:
                self._slots.release()
            # Nothing may be left in the queue that came after the last look.
            if not self._queued or not self._slots.acquire(blocking=False):
                return

    def _getxattr(self, request: Request) -> bytes:
        size, _ = GETXATTR_IN.unpack_from(request.body)
        name = request.body[GETXATTR_IN.size : -1]
        # The kernel stops asking after ENOSYS, for this mount, for good. It would after LISTXATTR
        # too, but callers would see an error there instead of an empty list.
        refusal = self._scan.refusal(name)
        if refusal:
            raise OSError(refusal, "")
        # The kernel itself keeps `trusted.*` from who may not see it.
        value = self._view.xattrs(self._nid(request.nodeid), trusted=True).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "")
        return _sized(value, size)

    def _listxattr(self, request: Request) -> bytes:
        size, _ = GETXATTR_IN.unpack_from(request.body)
        names = self._view.xattrs(self._nid(request.nodeid), trusted=request.uid == 0)
        return _sized(b"".join(name + b"\0" for name in names), size)


def _name(opcode: int) -> str:
    return Opcode(opcode).name.lower() if opcode in _OPCODES else f"opcode {opcode}"


@contextmanager
def _raising_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise `_Terminated` in the main thread, if this is it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, _frame: object) -> NoReturn:
        log.info("ending on %s", signal.Signals(number).name)
        raise _Terminated

    old = {number: signal.signal(number, terminate) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _sized(value: bytes, size: int) -> bytes:
    """The reply to a request with room for `size` bytes; 0 asks for the size only."""
    if size == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "")
    return value
