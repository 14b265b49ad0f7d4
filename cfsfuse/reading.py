"""Reading files by nid, whatever server asks: content kept open, and damage reported once.

A server of files that never change needs no open files: a read names the inode. `FileReader` keeps
the contents that are read in pieces, least recently used first to go, within bounds of number and
memory. A content read in one go is not kept: the kernel's page cache has it. Small files come from
`Readahead` where they are read one after the other.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from typing import Final

from cfsfuse.readahead import Readahead
from cfsrepo.errors import CfsError, InputError, printable
from cfsrepo.images.contents import Buffer, Content
from cfsrepo.images.view import ImageView

log = logging.getLogger(__name__)

_FILES_KEPT: Final = 128
_BYTES_KEPT: Final = 32 << 20
_REPORTS_KEPT: Final = 1 << 12
_PATIENCE: Final = 5.0  # seconds for the last reports at the end


class _Kept:
    """A content and the number of reads that use it right now; None while it is being opened."""

    __slots__ = ("content", "opened", "users")

    def __init__(self) -> None:
        self.content: Content | None = None
        self.opened = threading.Event()
        self.users = 1


class FileReader:
    """Reads the regular files of `view`. Its methods may be called by several threads at once."""

    def __init__(self, view: ImageView) -> None:
        self._view = view
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._reported: set[int] = set()
        self._reports: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._reporter: threading.Thread | None = None
        self.ahead = Readahead(view)
        self.hits = 0  # reads that found their content open, or read ahead

    def read_ready(self, nid: int, offset: int, size: int) -> Buffer | None:
        """As `read`, but None where the disk, or much computing, would have to be waited for."""
        if nid in self.ahead:
            data = self.ahead.take(nid, offset, size, wait=False)
            if data is not None:
                self.hits += 1
                return data
            if nid in self.ahead:
                return None  # it is just being read
        with self._lock:
            kept = self._kept.get(nid)
            if kept is not None:
                if kept.content is None:
                    return None
                kept.users += 1
        if kept is None:
            content = self._view.open_ready(nid)
            if content is None:
                return None
            return self._first_read(nid, content, offset, size)
        assert kept.content is not None
        try:
            self.hits += 1
            return kept.content.read_ready(offset, size)
        finally:
            self._release(nid, kept)

    def _first_read(self, nid: int, content: Content, offset: int, size: int) -> Buffer | None:
        """Read from a content just opened without waiting, and keep it if more reads will come."""
        data = content.read_ready(offset, size)
        if data is not None and (offset == 0 and len(data) < size):
            content.close()
            return data
        kept = _Kept()
        kept.content = content
        kept.opened.set()
        with self._lock:
            if nid in self._kept:  # another thread was faster
                kept.users = 0
                closing = [content]
            else:
                self._kept[nid] = kept
                self._bytes += content.held
                closing = self._excess()
        if kept.users:
            self._release(nid, kept)
        for other in closing:
            other.close()
        return data

    def read(self, nid: int, offset: int, size: int) -> Buffer:
        """At most `size` bytes from `offset` of a file. May wait. Raises `OSError`, `CfsError`."""
        found = self.ahead.take(nid, offset, size, wait=True)
        if found is not None:
            self.hits += 1
            return found
        while True:
            with self._lock:
                kept = self._kept.get(nid)
                if kept is None:
                    kept = self._kept[nid] = _Kept()
                    opener = True
                else:
                    kept.users += 1
                    opener = False
            if opener:
                self._open(nid, kept)
            else:
                self.hits += 1
                kept.opened.wait()
            if kept.content is None:  # the thread that opened it failed: see for ourselves
                continue
            done = False
            try:
                data = kept.content.read(offset, size)
                done = offset == 0 and len(data) < size
                if done and opener:
                    self.ahead.missed(nid)
                return data
            finally:
                self._release(nid, kept, done=done)

    def _open(self, nid: int, kept: _Kept) -> None:
        try:
            content = self._view.open(nid)
        except BaseException:
            with self._lock:
                del self._kept[nid]
            kept.opened.set()
            raise
        with self._lock:
            kept.content = content
            self._bytes += content.held
            closing = self._excess()
        kept.opened.set()
        for other in closing:
            other.close()

    def _release(self, nid: int, kept: _Kept, *, done: bool = False) -> None:
        """One reader less; `done`: it had all of the file, so that nobody will read more."""
        with self._lock:
            kept.users -= 1
            if self._kept.get(nid) is kept:
                self._kept.move_to_end(nid, last=not (done and kept.users == 0))
            closing = self._excess(all_read=done and kept.users == 0)
        for content in closing:
            content.close()

    def _excess(self, *, all_read: bool = False) -> list[Content]:
        """Take out what is over the bounds and not in use; the caller closes it.

        `all_read`: the oldest one is not needed any more, too.
        """
        closing: list[Content] = []
        if not all_read and self._within_bounds():
            return closing
        for nid, kept in list(self._kept.items()):
            if kept.users == 0 and kept.content is not None:
                del self._kept[nid]
                self._bytes -= kept.content.held
                closing.append(kept.content)
                if self._within_bounds():
                    break
        return closing

    def _within_bounds(self) -> bool:
        return len(self._kept) <= _FILES_KEPT and self._bytes <= _BYTES_KEPT

    def close(self) -> None:
        """Release everything. No read may be under way."""
        self.ahead.close()
        if self._reporter is not None:
            self._reports.put(None)
            self._reporter.join(_PATIENCE)
        with self._lock:
            contents = [kept.content for kept in self._kept.values() if kept.content is not None]
            self._kept.clear()
            self._bytes = 0
        for content in contents:
            content.close()

    def report(self, nid: int, error: OSError | CfsError) -> None:
        """Log what is damaged: image, path and object in one line, once for each file.

        Another thread does it: finding the path walks the image.
        """
        with self._lock:
            if nid in self._reported:
                return
            if len(self._reported) >= _REPORTS_KEPT:
                self._reported.clear()
            self._reported.add(nid)
            if self._reporter is None:
                self._reporter = threading.Thread(
                    target=self._write_reports, name="reports", daemon=True
                )
                self._reporter.start()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        self._reports.put((nid, reason or "I/O error"))

    def _write_reports(self) -> None:
        while (item := self._reports.get()) is not None:
            nid, reason = item
            try:
                path = self._view.path_of(nid)
            except InputError:
                path = None
            shown = f"inode {nid}" if path is None else printable(path)
            log.error("%s: %s: %s", self._view.image.name, shown, printable(reason))
