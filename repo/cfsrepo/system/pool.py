"""Work spread over processes: for what Python computes itself, where threads would wait.

The processes are forked, so the work finds everything its closure names, open files too, without
copying. They hold the same locks; they end with their parent, however that ends. Work can send
messages while it is under way: see `run_watched`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar, cast

from cfsrepo.errors import CfsError, SystemFailure
from cfsrepo.system import linux

Item = TypeVar("Item")
Message = TypeVar("Message")
Result = TypeVar("Result")

_MESSAGE, _RESULT, _ERROR = range(3)  # what a worker sends, each with a value
_END_TIME = 0.5  # seconds for a worker to remove its temporary files


class Watcher(Generic[Item, Message]):
    """Follows the work on each item, in the calling process. Made to be overridden."""

    def started(self, item: Item) -> None:
        """The work on `item` begins."""

    def told(self, item: Item, message: Message) -> None:
        """The work on `item` sent `message`. What this raises ends all work."""

    def name(self, item: Item) -> str:
        """What the error calls the process whose work on `item` ended it."""
        return "a worker process"


def workers_available() -> int:
    """How many processes can run at the same time here."""
    return len(os.sched_getaffinity(0))


def run(
    items: Sequence[Item], work: Callable[[Item], Result], workers: int | None = None
) -> Generator[tuple[Item, Result]]:
    """(item, work(item)) for each item, in the order in which they get done.

    With one worker (None: as many as there are processors) or one item all is done in this process.
    A `CfsError` or `OSError` of the work is raised here and ends the other processes, as closing
    the iterator does. Results must be fit for pickle.
    """
    watcher: Watcher[Item, Any] = Watcher()
    return run_watched(items, lambda item, tell: work(item), watcher, workers)


def run_watched(
    items: Sequence[Item],
    work: Callable[[Item, Callable[[Message], object]], Result],
    watcher: Watcher[Item, Message],
    workers: int | None = None,
) -> Generator[tuple[Item, Result]]:
    """As `run`, for work that is called with a function too, which sends a message to `watcher`."""
    workers = min(workers or workers_available(), len(items))
    if workers <= 1:
        for item in items:
            watcher.started(item)
            yield item, work(item, partial(watcher.told, item))
        return
    processes: dict[Connection, ForkProcess] = {}
    try:
        for _ in range(workers):
            connection, process = _start(items, work, list(processes))
            processes[connection] = process
        given: dict[Connection, int] = {}
        numbers = iter(range(len(items)))

        def give_next(connection: Connection) -> None:
            if (number := next(numbers, None)) is not None:
                given[connection] = number
                watcher.started(items[number])
                connection.send(number)

        for connection in processes:
            give_next(connection)
        while given:
            for ready in wait(list(given)):
                connection = cast(Connection, ready)
                item = items[given[connection]]
                try:
                    kind, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(processes[connection], watcher.name(item)) from None
                if kind == _MESSAGE:
                    watcher.told(item, value)
                elif kind == _ERROR:
                    raise value
                else:
                    del given[connection]
                    give_next(connection)
                    yield item, value
    finally:
        _end(processes)


def _start(
    items: Sequence[Item],
    work: Callable[[Item, Callable[[Message], object]], Result],
    others: list[Connection],
) -> tuple[Connection, ForkProcess]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(items, work, theirs, [ours, *others]))
    process.daemon = True
    process.start()
    theirs.close()
    return ours, process


def _serve(
    items: Sequence[Item],
    work: Callable[[Item, Callable[[Message], object]], Result],
    connection: Connection,
    others: list[Connection],
) -> None:
    """A worker: gets numbers of items, sends results, until it is ended or its parent is gone."""
    linux.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGTERM, _exit)
    for other in others:
        other.close()

    def tell(message: Message) -> None:
        connection.send((_MESSAGE, message))

    while True:
        try:
            item = items[connection.recv()]
        except EOFError:
            return
        try:
            answer: tuple[int, Any] = _RESULT, work(item, tell)
        except (CfsError, OSError) as error:
            answer = _ERROR, error
        connection.send(answer)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    """End as an exception does, so that temporary files are removed."""
    raise SystemExit(128 + number)


def _end(processes: dict[Connection, ForkProcess]) -> None:
    """No process outlives the work."""
    for process in processes.values():
        process.terminate()
    for connection, process in processes.items():
        process.join(_END_TIME)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
        connection.close()  # not before: a worker that sends would fail


def _died(process: ForkProcess, name: str) -> SystemFailure:
    process.join()
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return SystemFailure(
        f"{name} {how}",
        hint="out of memory? the kernel's log says" if code == -signal.SIGKILL else None,
    )
