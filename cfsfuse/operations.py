"""The pyfuse3 server of an `ImageView`: requests in, answers out, nothing decided here.

An image never changes, so the kernel may keep every answer: entries, attributes and the absence of
names are valid for a day, file data stays in the page cache. FUSE inode numbers are nids, but for
the root, which FUSE calls 1 (no nid is 1: the first 36 slots of an image are its headers).

Each entry's `EntryAttributes` is made once and kept while there is room. Requests that may wait for
the disk run in threads; all others are answered at once on trio's thread.

Nothing is held for what is open: a handle is the inode. Where pyfuse3 hands the inode to who has no
handle (`STATELESS`: it was built by `tools/pyfuse3`), opening is answered by "not implemented":
the kernel stops asking, and to read again what it has in its cache costs the server nothing. A
stock pyfuse3 costs two requests for each file that is opened, and three for each directory.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import trio

import pyfuse3
from cfsfuse.reading import FileReader
from cfsrepo.errors import CfsError
from cfsrepo.images.contents import Buffer
from cfsrepo.images.view import BLOCK_SIZE, ImageView, refused_access, stat_blocks
from cfsrepo.images.xattrscan import XattrScan
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    StatvfsData,
    XAttrNameT,
)

log = logging.getLogger(__name__)

# Seconds that the kernel may keep an answer.
_VALID = 86400.0
_NANOSECONDS = 1_000_000_000
_ENTRIES_KEPT = 1 << 16
_ROOT = pyfuse3.ROOT_INODE


Wait = Callable[..., Awaitable[Any]]

STATELESS = hasattr(pyfuse3.Operations, "stateless_open")
"""Whether this pyfuse3 serves files and directories that were never opened."""


class Operations(pyfuse3.Operations):
    """Answers the kernel's requests from `view`."""

    supports_dot_lookup = True
    enable_acl = False
    stateless_open = STATELESS
    cache_symlinks = True  # of a stock pyfuse3 not asked for

    def __init__(self, view: ImageView, *, trusted: bool = True) -> None:
        """`trusted`: root may use the mount, so that attributes of the class `trusted` count."""
        super().__init__()
        self._view = view
        self._reader = FileReader(view)
        self._scan = XattrScan(view, trusted=trusted)
        self.ready: Callable[[], None] = lambda: None
        """Called when the kernel has started the session."""
        self.wait: Wait = trio.to_thread.run_sync
        """Runs a call that may wait for the disk, in another thread."""
        self._requests: Counter[str] = Counter()
        self._entries: dict[int, EntryAttributes] = {}
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = _VALID

    def init(self) -> None:
        """The kernel has started the session: what comes from now on is answered."""
        self.ready()

    def close(self) -> None:
        """Release what is open, after the session."""
        self._reader.close()

    def numbers(self) -> dict[str, Any]:
        """Requests by kind, and reads that found their file open."""
        return {
            "requests": sum(self._requests.values()),
            "by_request": dict(sorted(self._requests.copy().items())),
            "cache_hits": self._reader.hits,
        }

    # --- names and attributes --------------------------------------------------------------------

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        self._count("lookup")
        try:
            nid = self._view.lookup(self._nid(parent_inode), name)
        except (OSError, CfsError) as error:
            self._fail(error)
        if nid is None:
            return self._absent
        entry = self._entry(nid)
        if nid == self._view.root:
            entry = _copy(entry, _ROOT)
        return entry

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        self._count("getattr")
        return self._entry(self._nid(inode))

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        self._count("opendir")
        if STATELESS:
            raise FUSEError(errno.ENOSYS)
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        self._count("readdir")
        try:
            directory = self._nid(InodeT(fh))
            listed = []
            for position, name, nid in self._view.readdir(directory, start_id):
                listed.append(nid)
                try:
                    entry = self._entry(nid)
                except FUSEError:
                    entry = self._absent  # damaged: looking it up is an error
                if not pyfuse3.readdir_reply(token, name, entry, position):
                    break
            if start_id == 0:
                self._reader.ahead.listed(directory, listed)
        except (OSError, CfsError) as error:
            self._fail(error)

    async def releasedir(self, fh: FileHandleT) -> None:
        """Nothing is held for an open directory."""
        self._count("releasedir")

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        self._count("readlink")
        try:
            return FileNameT(self._view.readlink(inode))
        except (OSError, CfsError) as error:
            self._fail(error)

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        self._count("access")
        code = refused_access(self._entry(self._nid(inode)).st_mode, mode)
        if code:
            raise FUSEError(code)
        return True

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        self._count("statfs")
        usage = self._view.usage()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_SIZE
        data.f_blocks = usage.blocks
        data.f_files = usage.files
        data.f_namemax = usage.name_max
        return data

    # --- extended attributes ---------------------------------------------------------------------

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[XAttrNameT]:
        self._count("listxattr")
        try:
            return list(self._view.xattrs(self._nid(inode), trusted=ctx.uid == 0))
        except (OSError, CfsError) as error:
            self._fail(error)

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        self._count("getxattr")
        refusal = self._scan.refusal(name)
        if refusal:
            raise FUSEError(refusal)
        # The kernel itself keeps `trusted.*` from who may not see it.
        try:
            return self._view.xattrs(self._nid(inode), trusted=True)[name]
        except KeyError:
            raise FUSEError(errno.ENODATA) from None
        except (OSError, CfsError) as error:
            self._fail(error)

    # --- content ---------------------------------------------------------------------------------

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Opens nothing: the first read does, and what the kernel has cached is not read."""
        self._count("open")
        if STATELESS:
            raise FUSEError(errno.ENOSYS)
        return FileInfo(fh=inode, keep_cache=True)

    async def read(  # type: ignore[override]  # any buffer will do
        self, fh: FileHandleT, off: int, size: int
    ) -> Buffer:
        self._count("read")
        try:
            ready = self._reader.read_ready(fh, off, size)
            if ready is not None:
                return ready
            data: Buffer = await self.wait(self._reader.read, fh, off, size)
            return data
        except (OSError, CfsError) as error:
            if _errno(error) == errno.EIO:
                self._reader.report(fh, error)
            self._fail(error)

    async def release(self, fh: FileHandleT) -> None:
        """Nothing is held for an open file."""
        self._count("release")

    async def flush(self, fh: FileHandleT) -> None:
        """Nothing is written, ever: the kernel stops asking."""
        raise FUSEError(errno.ENOSYS)

    # --- helpers ---------------------------------------------------------------------------------

    def _nid(self, inode: InodeT) -> int:
        return self._view.root if inode == _ROOT else inode

    def _entry(self, nid: int) -> EntryAttributes:
        entry = self._entries.get(nid)
        if entry is not None:
            return entry
        try:
            inode = self._view.attributes(nid)
        except CfsError as error:
            self._fail(error)
        entry = EntryAttributes()
        entry.st_ino = nid
        entry.entry_timeout = entry.attr_timeout = _VALID
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blocks = stat_blocks(inode.size)
        entry.st_blksize = BLOCK_SIZE
        time = inode.mtime_sec * _NANOSECONDS + min(inode.mtime_nsec, _NANOSECONDS - 1)
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = time
        if len(self._entries) >= _ENTRIES_KEPT:
            self._entries.clear()  # the kernel has them all; this spares only repeated work
        self._entries[nid] = entry
        return entry

    def _count(self, kind: str) -> None:
        self._requests[kind] += 1

    def _fail(self, error: OSError | CfsError) -> NoReturn:
        """The errno for the caller; damage of the image itself goes to the log too."""
        if isinstance(error, CfsError):
            log.error("%s", error)
        raise FUSEError(_errno(error)) from None


def _errno(error: OSError | CfsError) -> int:
    return error.errno if isinstance(error, OSError) and error.errno else errno.EIO


def _copy(entry: EntryAttributes, inode: int) -> EntryAttributes:
    """The same attributes under another number."""
    copy = EntryAttributes()
    copy.__setstate__(entry.__getstate__())
    copy.st_ino = inode
    return copy


async def _read_only(*_: Any) -> NoReturn:
    raise FUSEError(errno.EROFS)


# The mount is read-only, so the kernel sends none of these, unless root remounts it.
for _name in (
    "create",
    "link",
    "mkdir",
    "mknod",
    "removexattr",
    "rename",
    "rmdir",
    "setattr",
    "setxattr",
    "symlink",
    "unlink",
    "write",
):
    setattr(Operations, _name, _read_only)
