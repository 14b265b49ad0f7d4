"""Threads for what may wait for the disk, awaited in trio.

`trio.to_thread` does the same for any caller; these threads cost a third of it for a call, since
they are there already, belong to one event loop, and cannot be cancelled: a read of a disk cannot.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import outcome
import trio

_Result = TypeVar("_Result")
_PATIENCE: Final = 5.0  # seconds for the threads to end

_Job = tuple[trio.lowlevel.Task, Callable[..., Any], tuple[Any, ...]]


class Workers:
    """`count` threads that work for the running trio."""

    def __init__(self, count: int) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, call: Callable[..., _Result], *arguments: Any) -> _Result:
        """What `call(*arguments)` returns or raises, in one of the threads."""
        self._jobs.put((trio.lowlevel.current_task(), call, arguments))
        result: _Result = await trio.lowlevel.wait_task_rescheduled(_never)
        return result

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            task, call, arguments = job
            result = outcome.capture(call, *arguments)
            try:
                self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)
            except trio.RunFinishedError:
                return

    def close(self) -> None:
        """End the threads. Nobody may be waiting in `run` any more."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_PATIENCE)


def _never(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
