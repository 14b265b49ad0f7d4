"""Work in processes: all results, errors as they are, nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from cfsrepo.errors import NotFoundError, SystemFailure
from cfsrepo.system import pool
from tests.waiting import PATIENCE


@pytest.mark.parametrize("workers", [1, 2, 5, None])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_every_item_is_done_once(workers: int | None, count: int) -> None:
    items = [f"item {number}" for number in range(count)]
    found = list(pool.run(items, str.upper, workers))
    assert sorted(found) == sorted((item, item.upper()) for item in items)
    assert multiprocessing.active_children() == []


def test_it_runs_in_other_processes_and_sees_what_the_caller_has() -> None:
    local = {"key": "value"}
    both = multiprocessing.get_context("fork").Barrier(2, timeout=PATIENCE)

    def work(item: int) -> tuple[int, str]:
        both.wait()  # each has an item at the same time
        return os.getpid(), local["key"]

    results = [result for _, result in pool.run(range(2), work, 2)]
    assert {value for _, value in results} == {"value"}
    pids = {pid for pid, _ in results}
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_arrive_with_their_hint(workers: int) -> None:
    def work(item: int) -> int:
        raise NotFoundError("no such thing", hint="look elsewhere")

    with pytest.raises(NotFoundError, match="no such thing") as caught:
        list(pool.run([1, 2, 3], work, workers))
    assert caught.value.hint == "look elsewhere"
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_an_error() -> None:
    def work(item: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(SystemFailure, match="killed by signal 9"):
        list(pool.run([1, 2, 3], work, 2))
    assert multiprocessing.active_children() == []


def test_leaving_early_ends_the_workers() -> None:
    def work(item: int) -> int:
        if item:
            signal.pause()
        return item

    results = pool.run([0, 1, 2, 3], work, 2)
    assert next(results) == (0, 0)
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_messages_come_before_the_result() -> None:
    class Watcher(pool.Watcher[int, str]):
        def __init__(self) -> None:
            self.seen: list[tuple[int, str]] = []

        def started(self, item: int) -> None:
            self.seen.append((item, "started"))

        def told(self, item: int, message: str) -> None:
            self.seen.append((item, message))

    def work(item: int, tell: Callable[[str], object]) -> int:
        tell("one")
        tell("two")
        return item

    for workers in (1, 2):
        watcher = Watcher()
        for item, _ in pool.run_watched([1, 2, 3], work, watcher, workers):
            assert [what for at, what in watcher.seen if at == item] == ["started", "one", "two"]
        assert multiprocessing.active_children() == []


def test_workers_that_are_ended_remove_their_temporary_files(tmp_path: object) -> None:
    class Ending(pool.Watcher[int, str]):
        def told(self, item: int, message: str) -> None:
            assert os.path.exists(message)
            raise KeyboardInterrupt

    def work(item: int, tell: Callable[[str], object]) -> int:
        path = f"{tmp_path}/{item}"
        with open(path, "w"):
            try:
                tell(path)
                signal.pause()
            finally:
                os.unlink(path)
        return item

    with pytest.raises(KeyboardInterrupt):
        list(pool.run_watched([1, 2], work, Ending(), 2))
    assert os.listdir(str(tmp_path)) == []
    assert multiprocessing.active_children() == []


def test_workers_end_with_their_parent() -> None:
    program = (
        "import os, signal\n"
        "from cfsrepo.system import pool\n"
        "def work(item):\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    signal.pause()\n"
        "list(pool.run([1, 2], work, 2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    # Both held the pipe: its end says that they are gone.
    assert parent.stdout.read() == ""
    assert len(set(pids)) == 2
