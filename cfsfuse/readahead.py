"""Reading small files before they are asked for, once those of a directory are read one by one.

The first read of a small file waits for the disk and for a thread that reads and verifies it. Tools
that read whole directories (tar, cp, grep -r) do that for one file after the other. The makers of
images put the inodes of a directory's entries side by side, in the order in which they are listed.
So when a file is read whose neighbour was read before, the files that follow in the image are read
ahead by threads, more of them the longer it goes on, as the kernel does within a file.

Where inodes are in another order the guess is wrong, and only work is lost: what is kept is found
by the number of its inode and was verified against that inode's digest.
"""

from __future__ import annotations

import queue
import stat
import threading
from collections import OrderedDict, deque
from typing import Final

from cfsrepo.errors import CfsError
from cfsrepo.formats.erofs import layout
from cfsrepo.images.contents import Buffer
from cfsrepo.images.view import ImageView

SIZE_MAX: Final = 256 << 10
"""Larger files have their own readahead, by the kernel."""
_WINDOW_MIN: Final = 8  # files
_WINDOW_MAX: Final = 64
_BATCH: Final = 8
_BYTES_KEPT: Final = 16 << 20
_SCAN_MAX: Final = 512  # slots of the image looked at for a batch
_EXPECTED_MAX: Final = 64
_STREAMS_MAX: Final = 16
_OVERTAKEN_MAX: Final = 256  # slots of the image
_STARTS_MAX: Final = 1 << 16
_THREADS: Final = 3
_PATIENCE: Final = 5.0  # seconds for the threads to end


class _Stream:
    """Files that are read one after the other."""

    __slots__ = ("ahead", "next", "window")

    def __init__(self, nid: int) -> None:
        self.next: int | None = nid  # where to look for the next file; None at the end
        self.ahead = 0  # files that are, or are to be, read ahead and were not asked for yet
        self.window = _WINDOW_MIN


class _Kept:
    """A file that is read ahead; `data` is None until it is there, and where it cannot be had."""

    __slots__ = ("data", "done", "stream", "taken")

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        self.data: memoryview | None = None
        self.done = threading.Event()
        self.taken = False


class Readahead:
    """Reads files of `view` ahead. Methods may be called by several threads at once."""

    def __init__(self, view: ImageView) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._bytes = 0
        self._expected: OrderedDict[int, None] = OrderedDict()
        self._streams: deque[_Stream] = deque(maxlen=_STREAMS_MAX)
        self._starts: set[int] = set()  # first inodes of directories' entries
        self._jobs: queue.SimpleQueue[_Stream | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.hits = 0
        """Files that were there before they were asked for."""

    def __contains__(self, nid: int) -> bool:
        """Whether a file is read ahead, or just being read."""
        return nid in self._kept

    def listed(self, directory: int, nids: list[int]) -> None:
        """A directory is listed: what is read ahead of its neighbour ends before its entries."""
        after = [nid for nid in nids if nid > directory]
        if after:
            if len(self._starts) >= _STARTS_MAX:
                self._starts.clear()
            self._starts.add(min(after))

    def take(self, nid: int, offset: int, size: int, *, wait: bool) -> Buffer | None:
        """Bytes of a file that was read ahead; None where it was not, or is not there yet.

        `wait`: for one that is just being read.
        """
        kept = self._kept.get(nid)
        if kept is None:
            return None
        if not kept.done.is_set():
            if not wait:
                return None
            kept.done.wait()
        data = kept.data
        with self._lock:
            if not kept.taken:
                kept.taken = True
                kept.stream.ahead -= 1
                self._extend(kept.stream)
                self.hits += data is not None
            if data is None or offset + size >= len(data):  # nobody asks for it again
                self._forget(nid)
        return None if data is None else data[offset : offset + size]

    def missed(self, nid: int) -> None:
        """A small file was read that was not read ahead."""
        following = self._following(nid)
        with self._lock:
            expected = nid in self._expected
            self._expected.pop(nid, None)
            self._forget(nid)  # whose turn came when it was being read already
            if following is None:
                return
            for stream in self._streams:
                if stream.next is not None and 0 <= nid - stream.next < _OVERTAKEN_MAX:
                    stream.next = following  # the reader is faster: go on in front of it
                    self._extend(stream)
                    return
            if expected:
                self._start(following)
                return
            self._expected[following] = None
            if len(self._expected) > _EXPECTED_MAX:
                self._expected.popitem(last=False)

    def _start(self, nid: int) -> None:
        if not self._threads:
            for number in range(_THREADS):
                name = f"readahead-{number}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
        stream = _Stream(nid)
        self._streams.append(stream)
        self._extend(stream)

    def _extend(self, stream: _Stream) -> None:
        """Have more files read once half of the window is used up."""
        if stream.next is not None and stream.ahead <= stream.window // 2:
            for _ in range((stream.window - stream.ahead) // _BATCH):
                stream.ahead += _BATCH
                self._jobs.put(stream)
            stream.window = min(2 * stream.window, _WINDOW_MAX)

    def _work(self) -> None:
        while (stream := self._jobs.get()) is not None:
            for nid, kept in self._batch(stream):
                data: Buffer | None = None
                try:
                    content = self._view.open(nid)
                    try:
                        data = content.read(0, SIZE_MAX)
                    finally:
                        content.close()
                except (OSError, CfsError):
                    data = None  # who asks for it meets the error, and reports it
                finally:
                    self._store(nid, kept, data)

    def _batch(self, stream: _Stream) -> list[tuple[int, _Kept]]:
        """The next files of a stream that are worth it, in a place where they can be waited for."""
        batch: list[tuple[int, _Kept]] = []
        with self._lock:
            for _ in range(_BATCH):
                nid = stream.next
                if nid is None:
                    break
                stream.next = self._following(nid)
                if nid in self._kept:
                    stream.next = None  # another stream is here already
                    break
                kept = self._kept[nid] = _Kept(stream)
                batch.append((nid, kept))
            stream.ahead -= _BATCH - len(batch)
        return batch

    def _store(self, nid: int, kept: _Kept, data: Buffer | None) -> None:
        with self._lock:
            if data is not None:
                kept.data = memoryview(data)
                self._bytes += len(data)
            kept.done.set()
            if self._bytes > _BYTES_KEPT:
                for oldest in [nid for nid, other in self._kept.items() if other.done.is_set()]:
                    self._forget(oldest)
                    if self._bytes <= _BYTES_KEPT:
                        break

    def _forget(self, nid: int) -> None:
        kept = self._kept.pop(nid, None)
        if kept is None:
            return
        if not kept.taken:
            kept.taken = True
            kept.stream.ahead -= 1
        if kept.data is not None:
            self._bytes -= len(kept.data)

    def _following(self, nid: int) -> int | None:
        """The next inode of the same directory that is a small file with an object."""
        image = self._view.image
        for _ in range(_SCAN_MAX):
            try:
                nid = image.nid_after(nid)
                if nid in self._starts:
                    return None
                inode = image.inode(nid)
            except CfsError:
                return None
            if (
                stat.S_ISREG(inode.mode)
                and inode.layout == layout.LAYOUT_CHUNK_BASED
                and 0 < inode.size <= SIZE_MAX
            ):
                return nid
        return None

    def close(self) -> None:
        """End the threads and forget everything."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._kept.clear()
