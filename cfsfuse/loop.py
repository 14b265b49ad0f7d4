"""How pyfuse3's main loop is run fast, on a connection that was mounted by us.

Between two requests pyfuse3 goes through trio's scheduler twice, and so through epoll three times,
which costs five times what answering does. Here the connection is polled first: while requests are
ready, they are taken one after the other, and trio runs after at most `_IN_A_ROW` of them. For that
`pyfuse3._wait_fuse_readable` is replaced, a private function that the main loop looks up in its
module: only in versions in which this was tested; others run as they are.

Requests that wait for the disk run in threads. Each occupies a task of the main loop meanwhile, of
which there are enough that one is always left for what needs no disk.

See `Operations` for what a pyfuse3 built by `tools/pyfuse3` saves besides.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

import pyfuse3
from cfsfuse.operations import Operations
from cfsfuse.signals import ENDING
from cfsfuse.workers import Workers
from cfsrepo.system.closing import Closing

log = logging.getLogger(__name__)

TESTED: Final = frozenset({"3.5.0"})
"""Versions of pyfuse3 whose main loop is known to work with another readiness function."""
_IN_A_ROW: Final = 64
# Never ended and never more: with polling first the main loop cannot count who is idle.
_TASKS: Final = 64
_READERS: Final = 8
_WAIT: Final = "_wait_fuse_readable"


class Loop(Closing):
    """Answers the requests that come on the FUSE connection `fd` by `operations`; owns both.

    There can be one at a time in a process.
    """

    def __init__(self, operations: Operations, fd: int) -> None:
        self._operations = operations
        self._fd = fd
        # libfuse takes a descriptor that is mounted already, and leaves mounting to us.
        try:
            pyfuse3.init(operations, f"/dev/fd/{fd}", set())
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the connection. Nothing is unmounted: after an error the mount is to be dead."""
        pyfuse3.close(unmount=False)
        self._operations.close()

    def run(self, ready: Callable[[], None], end: Callable[[], None]) -> None:
        """Serve until the mount is gone; SIGTERM and SIGINT call `end()`, which unmounts, first.

        `ready` is called when the kernel has begun the session. Both signals may be blocked by the
        caller: from here on they are taken.
        """
        self._operations.ready = ready
        gc.collect()
        gc.freeze()  # what exists now lives as long as the server: never scan it again
        with _polling_first(self._fd) as fast:
            trio.run(self._main, end, fast)

    async def _main(self, end: Callable[[], None], fast: bool) -> None:
        workers = Workers(_READERS)
        self._operations.wait = workers.run
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._end_on_signal, end)
                await (pyfuse3.main(_TASKS, _TASKS) if fast else pyfuse3.main())
                nursery.cancel_scope.cancel()
        finally:
            workers.close()

    async def _end_on_signal(self, end: Callable[[], None], task_status: Any) -> None:
        with trio.open_signal_receiver(*ENDING) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            task_status.started()
            async for number in signals:
                log.info("ending on %s", signal.Signals(number).name)
                # Still serving: the helper that unmounts may look at the mount.
                await trio.to_thread.run_sync(end)
                pyfuse3.terminate()
                return


class _Readiness:
    """Waiting until a request can be read from `fd`: by poll(2) first, else by `stock`."""

    def __init__(self, fd: int, stock: Callable[[], Awaitable[bool]]) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._stock = stock
        self._in_a_row = 0

    async def wait(self) -> bool:
        """True when reading will not block; False when the session is to end."""
        if self._in_a_row < _IN_A_ROW and self._poll(0):
            self._in_a_row += 1
            return True
        self._in_a_row = 0
        while await self._stock():
            # Another task may have taken the request, and to read then would stop everything.
            if self._poll(0):
                return True
        return False


@contextmanager
def _polling_first(fd: int) -> Iterator[bool]:
    """Let pyfuse3 poll first inside the block; False where it is none that this was tested with."""
    stock = getattr(pyfuse3, _WAIT, None)
    if stock is None or pyfuse3.__version__.partition("+")[0] not in TESTED:
        log.info("pyfuse3 %s was not tested: its own main loop is used", pyfuse3.__version__)
        yield False
        return
    setattr(pyfuse3, _WAIT, _Readiness(fd, stock).wait)
    try:
        yield True
    finally:
        setattr(pyfuse3, _WAIT, stock)
