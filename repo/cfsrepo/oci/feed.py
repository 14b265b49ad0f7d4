"""Chunks that another thread makes while this one works on those that came before: reading, hashing
and unpacking need no interpreter's lock."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Self

from cfsrepo.system.closing import Closing

_QUEUE_SIZE = 4  # chunks between the threads


class Feed(Closing):
    """Runs `produce` in a thread of its own. A context manager: leaving it ends the thread.

    `produce` gives chunks, each with how many bytes of its source were read for all so far.
    """

    def __init__(
        self,
        produce: Iterator[tuple[bytes, int]],
        interrupt: Callable[[], object] | None = None,
    ) -> None:
        """`interrupt` makes a `produce` that waits for its source fail."""
        self.size = 0
        """Bytes of all chunks that were taken."""
        self._produce = produce
        self._interrupt = interrupt
        # A chunk and the position, None at the end, or what went wrong.
        self._queue: queue.Queue[tuple[bytes, int] | BaseException | None] = queue.Queue(
            _QUEUE_SIZE
        )
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="unpack", daemon=True)

    def chunks(self, report: Callable[[int, int], object]) -> Iterator[bytes]:
        """The chunks; ends, or raises, as `produce` does.

        `report` is told of each: the bytes of the source that were read for it, and its own.
        """
        seen = 0
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            chunk, position = item
            self.size += len(chunk)
            report(position - seen, len(chunk))
            seen = position
            if chunk:
                yield chunk

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._produce:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the other thread
            last = error
        self._put(last)

    def _put(self, item: tuple[bytes, int] | BaseException | None) -> bool:
        """Hand `item` over; False when nobody wants it any more."""
        while not self._stopped:
            try:
                self._queue.put(item, timeout=1)
            except queue.Full:
                continue
            return True
        return False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop producing and wait for the thread's end."""
        self._stopped = True
        if self._interrupt is not None and self._thread.is_alive():
            self._interrupt()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(0.01)
