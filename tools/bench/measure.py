"""Programs measured from outside: wall time, CPU time, peak memory, of all their processes."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

SAMPLE_SECONDS = 0.05


class BenchError(Exception):
    """A measured program failed, or what a subject needs is not there."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run cost."""

    wall: float  # seconds
    cpu: float  # seconds, user and system
    memory: float  # bytes: the largest sum of the processes' proportional set sizes that was seen


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the same thing done by us and by a peer."""

    subject: str
    what: str
    unit: str  # s, MiB, ...
    ours: float
    peer: float
    peer_name: str
    target: float | None = None
    """The ratio that we set out to stay below."""

    @property
    def ratio(self) -> float:
        """Ours by the peer's."""
        return self.ours / self.peer


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run `command` to its end. Raises `BenchError` where it fails."""
    began = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=-2
    ) as process:
        peak = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(SAMPLE_SECONDS):
                peak = max(peak, sum(_proportional_size(pid) for pid in _tree(process.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
    if process.returncode:
        raise BenchError(f"{' '.join(command)}:\n{output.decode(errors='replace')}")
    peak = max(peak, usage.ru_maxrss << 10)
    return Usage(wall, usage.ru_utime + usage.ru_stime, peak)


def _tree(root: int) -> Iterator[int]:
    """`root` and its descendants."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                waiting += [int(child) for child in file.read().split()]
        except OSError:
            continue


def _proportional_size(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass  # it has ended
    return 0


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the programs in a comparison."""

    name: str
    prepare: Callable[[], Sequence[str]]
    """Makes a fresh start, unmeasured, and returns the command to measure."""


def compare(
    subject: str, what: str, ours: Contender, peer: Contender, rounds: int, target: float | None
) -> list[Row]:
    """Both in turns, `rounds` times: three rows, of the least wall and CPU time and the memory.

    The least, since all that others do on the machine only adds.
    """
    usages: dict[str, list[Usage]] = {ours.name: [], peer.name: []}
    for _ in range(rounds):
        for contender in (ours, peer):
            usages[contender.name].append(measure(contender.prepare()))

    def least(name: str, key: str) -> float:
        return min(float(getattr(usage, key)) for usage in usages[name])

    def median(name: str, key: str) -> float:
        return statistics.median(float(getattr(usage, key)) for usage in usages[name])

    return [
        Row(
            subject,
            f"{what}, wall",
            "s",
            least(ours.name, "wall"),
            least(peer.name, "wall"),
            peer.name,
            target,
        ),
        Row(
            subject,
            f"{what}, CPU",
            "s",
            least(ours.name, "cpu"),
            least(peer.name, "cpu"),
            peer.name,
        ),
        Row(
            subject,
            f"{what}, memory",
            "MiB",
            median(ours.name, "memory") / (1 << 20),
            median(peer.name, "memory") / (1 << 20),
            peer.name,
        ),
    ]


def program(name: str) -> str:
    """The path of a peer's program, by $CFS_TEST_NAME or on PATH; `BenchError` without."""
    variable = "CFS_TEST_" + name.upper().replace("-", "_").replace(".", "_")
    path = shutil.which(os.environ.get(variable, name))
    if path is None:
        raise BenchError(f"needs {name}, on PATH or by ${variable}")
    return path


@contextmanager
def scratch_directory(prefix: str) -> Iterator[str]:
    """A directory on the disk that holds $TMPDIR, else /var/tmp; gone at the end."""
    base = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - mkdtemp makes the name
    with tempfile.TemporaryDirectory(prefix=f"cfsfuse-{prefix}-", dir=base) as directory:
        yield directory
