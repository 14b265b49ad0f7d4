"""pyfuse3's main loop polls first, where that is known to work; threads that work for trio."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")

from cfsfuse import loop  # noqa: E402
from cfsfuse.workers import Workers  # noqa: E402


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    receiver, sender = os.pipe()
    yield receiver, sender
    os.close(receiver)
    os.close(sender)


class Stock:
    """In the place of pyfuse3's own function; counts how often it was asked."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    async def wait(self) -> bool:
        return self.answers.pop(0)


def test_requests_in_a_row_do_not_ask_the_scheduler(pipe: tuple[int, int]) -> None:
    receiver, sender = pipe
    os.write(sender, b"request")
    stock = Stock(True)
    readiness = loop._Readiness(receiver, stock.wait)

    async def main() -> None:
        for _ in range(loop._IN_A_ROW):
            assert await readiness.wait()
        assert len(stock.answers) == 1
        assert await readiness.wait()  # others get their turn
        assert stock.answers == []
        assert await readiness.wait()

    trio.run(main)


def test_a_request_that_another_task_took_is_not_waited_for_in_read(pipe: tuple[int, int]) -> None:
    stock = Stock(True, True, False)
    readiness = loop._Readiness(pipe[0], stock.wait)
    assert trio.run(readiness.wait) is False
    assert stock.answers == []


def test_only_what_was_tested_is_replaced(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = pyfuse3._wait_fuse_readable
    for version in ("3.5.0", "3.5.0+stateless1"):
        monkeypatch.setattr(pyfuse3, "__version__", version)
        with loop._polling_first(pipe[0]) as fast:
            assert fast
            assert pyfuse3._wait_fuse_readable is not stock
        assert pyfuse3._wait_fuse_readable is stock
    monkeypatch.setattr(pyfuse3, "__version__", "3.99.0")
    with loop._polling_first(pipe[0]) as fast:
        assert not fast
        assert pyfuse3._wait_fuse_readable is stock
    monkeypatch.setattr(pyfuse3, "__version__", "3.5.0")
    monkeypatch.delattr(pyfuse3, "_wait_fuse_readable")
    with loop._polling_first(pipe[0]) as fast:
        assert not fast


def test_the_installed_pyfuse3_is_one_that_was_tested() -> None:
    assert pyfuse3.__version__.partition("+")[0] in loop.TESTED


def test_workers_return_and_raise() -> None:
    async def main() -> list[int]:
        workers = Workers(3)
        found: list[int] = []

        async def ask(number: int) -> None:
            found.append(await workers.run(lambda: number * number))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 1, 0)
        workers.close()
        assert not any(thread.is_alive() for thread in workers._threads)
        return sorted(found)

    assert trio.run(main) == [number * number for number in range(20)]
