"""From trio to threads: bytes that a task in a thread of its own receives, for whoever reads them.

The library is called from ordinary threads and processes; HTTP is done by trio. So each download
has a thread that runs trio and nothing else. It ends at once when the reader wants no more,
whatever it waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from cfsrepo.errors import TransportError
from cfsrepo.system.closing import Closing

_WAITING: Final = 16  # pieces between the threads, of up to 64 KiB
_TOGETHER: Final = 1 << 20  # bytes handed over at once

Send = Callable[[bytes], Awaitable[None]]


class Receiver(Closing):
    """Runs `produce`, which is given a function to send bytes with. A context manager."""

    def __init__(self, produce: Callable[[Send], Awaitable[None]]) -> None:
        self._produce = produce
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receive", daemon=True)
        self._thread.start()
        self._started.wait()

    def read(self) -> bytes:
        """The next bytes; none at the end. Raises what `produce` raises."""
        try:
            data = trio.from_thread.run(self._take, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            data = b""
        if not data and self._error is not None:
            raise self._error
        return data

    def close(self) -> None:
        """End the task, and the thread."""
        self.interrupt()
        self._thread.join()

    def interrupt(self) -> None:
        """End the task. A `read` that waits for it fails."""
        try:
            self._token.run_sync_soon(self._stop)
        except trio.RunFinishedError:
            return

    def _stop(self) -> None:
        if self._error is None:
            self._error = TransportError("the download was given up")
        self._scope.cancel()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - raised again in the reading thread
            self._error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        sending, self._receiving = trio.open_memory_channel[bytes](_WAITING)
        with trio.CancelScope() as self._scope:
            self._started.set()
            async with sending:
                try:
                    await self._produce(sending.send)
                except Exception as error:  # noqa: BLE001 - raised again in the reading thread
                    self._error = error
            # Stay for the reader, who may not have taken all.
            await trio.sleep_forever()
        self._receiving.close()

    async def _take(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            parts.append(await self._receiving.receive())
            size = len(parts[0])
            while size < _TOGETHER:
                parts.append(self._receiving.receive_nowait())
                size += len(parts[-1])
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass  # what came so far; nothing, at the end
        return b"".join(parts)
