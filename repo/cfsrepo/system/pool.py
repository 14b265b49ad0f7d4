"""Work spread over processes: for what Python computes itself, where threads would wait.

The processes are forked, so the work finds everything its closure names, open files too, without
copying. They hold the same locks; they end with their parent, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import TypeVar, cast

from cfsrepo.errors import CfsError, SystemFailure
from cfsrepo.system import linux

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers_available() -> int:
    """How many processes can run at the same time here."""
    return len(os.sched_getaffinity(0))


def run(
    items: Sequence[Item], work: Callable[[Item], Result], workers: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) for each item, in the order in which they get done.

    With one worker (None: as many as there are processors) or one item all is done in this process.
    A `CfsError` or `OSError` of the work is raised here and ends the other processes, as closing
    the iterator does. Results must be fit for pickle.
    """
    workers = min(workers or workers_available(), len(items))
    if workers <= 1:
        for item in items:
            yield item, work(item)
        return
    context = multiprocessing.get_context("fork")
    running: dict[Connection, ForkProcess] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(items, work, theirs, [ours, *running]), daemon=True
            )
            process.start()
            theirs.close()
            running[ours] = process
        given: dict[Connection, int] = {}
        numbers = iter(range(len(items)))
        for connection in running:
            connection.send(given.setdefault(connection, next(numbers)))
        while given:
            for ready in wait(list(given)):
                connection = cast(Connection, ready)
                try:
                    result = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(running[connection]) from None
                if isinstance(result, BaseException):
                    raise result
                done = given.pop(connection)
                if (number := next(numbers, None)) is not None:
                    given[connection] = number
                    connection.send(number)
                yield items[done], result
    finally:
        for connection, process in running.items():
            connection.close()
            process.kill()
            process.join()
            process.close()


def _serve(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    connection: Connection,
    others: list[Connection],
) -> None:
    """A worker: gets numbers of items, sends results, until it is killed or its parent is gone."""
    linux.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    for other in others:
        other.close()
    while True:
        try:
            item = items[connection.recv()]
        except EOFError:
            return
        try:
            result: Result | BaseException = work(item)
        except (CfsError, OSError) as error:
            result = error
        connection.send(result)


def _died(process: ForkProcess) -> SystemFailure:
    process.join()
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return SystemFailure(
        f"a worker process {how}",
        hint="out of memory? the kernel's log says" if code == -signal.SIGKILL else None,
    )
