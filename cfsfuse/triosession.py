"""Serving a view with pyfuse3 in trio: libfuse stands between us and the kernel."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyfuse3
import trio

from cfsfuse import mounts
from cfsfuse.connection import explained
from cfsfuse.operations import Operations
from cfsrepo.errors import MountError
from cfsrepo.system.closing import Closing

log = logging.getLogger(__name__)

_READERS = 8


class TrioSession(Closing):
    """A mount by pyfuse3. A context manager: it is mounted inside the block.

    `options` are of `connection.KERNEL_OPTIONS`. Raises `MountError`.
    """

    def __init__(
        self, operations: Operations, point: bytes, source: str, options: tuple[str, ...]
    ) -> None:
        self._operations = operations
        self._point = point
        wanted = {"ro", f"fsname={_option_value(source)}", f"subtype={mounts.SUBTYPE}", *options}
        if os.geteuid() != 0:
            mounts.helper()
        with _stderr_captured() as captured:
            try:
                pyfuse3.init(operations, os.fsdecode(point), wanted)
            except RuntimeError:
                raise explained(point, captured() or "reason unknown") from None

    def close(self) -> None:
        """Close the connection; nothing is unmounted."""
        # Not unmounted here: after an error the mount is to be dead, not silently empty.
        pyfuse3.close(unmount=False)
        self._operations.close()

    def run(self, ready: Callable[[], None]) -> bool:
        """Serve until unmounted, by somebody else or because of SIGTERM or SIGINT: True."""
        self._operations.ready = ready
        gc.collect()
        gc.freeze()  # what exists now lives as long as the server: never scan it again
        trio.run(self._main)
        return True

    def numbers(self) -> dict[str, Any]:
        """What was done so far."""
        return self._operations.numbers()

    async def _main(self) -> None:
        trio.to_thread.current_default_thread_limiter().total_tokens = _READERS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_on_signal)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    async def _end_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("ending on %s", signal.Signals(number).name)
                # Still serving: the helper that unmounts may look at the mount.
                try:
                    await trio.to_thread.run_sync(lambda: mounts.unmount(self._point, lazy=True))
                except MountError as error:
                    log.error("%s", error)
                pyfuse3.terminate()
                return


@contextmanager
def _stderr_captured() -> Iterator[Callable[[], str]]:
    """Descriptor 2 goes to a temporary file, which the yielded function reads.

    libfuse and fusermount3 write the only explanation of a failed mount there.
    """
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as capture:
            os.dup2(capture.fileno(), 2)

            def captured() -> str:
                text = os.pread(capture.fileno(), 4096, 0).decode(errors="replace")
                return text.strip().replace("\n", "; ")

            yield captured
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _option_value(text: str) -> str:
    """`text` as the value of an option of libfuse: no comma, no control character."""
    shown = (char if char.isascii() and char.isprintable() else "?" for char in text)
    return "".join(shown).replace(",", ";").replace("\\", "/")
