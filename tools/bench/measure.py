"""Programs measured from outside: wall time, CPU time, peak memory, of all their processes."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

SAMPLE_SECONDS = 0.05
LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launcher.py")
MIB = 1 << 20


class BenchError(Exception):
    """A measured program failed, or what a subject needs is not there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a subject is run."""

    rounds: int = 5
    quick: bool = False
    """On small inputs, for an impression in a short time."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run cost."""

    wall: float  # seconds
    cpu: float  # seconds, user and system
    memory: float
    """Bytes: the largest sum of the processes' proportional set sizes that was seen, or the peak of
    the largest process where that is more. Less than the launcher's own cannot be measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the same thing done by us and by a peer in the same rounds."""

    subject: str
    what: str
    unit: str  # s, MiB, ...
    ours: float  # median of the rounds
    peer: float
    peer_name: str
    ratio: float  # median of the rounds' ratios, ours by the peer's
    spread: tuple[float, float]  # the least and the largest ratio of a round
    floor: float | None = None
    """Median of what the thing costs in the best way known."""
    target: float | None = None
    """The ratio that we set out to stay below."""


def row(
    subject: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    *,
    floor: Sequence[float] = (),
    target: float | None = None,
) -> Row:
    """The line for one figure of each round of both; the floor's, too, where there is one.

    The ratio is taken round by round: what else the machine does meanwhile slows both.
    """
    ratios = sorted(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    return Row(
        subject,
        what,
        unit,
        statistics.median(ours),
        statistics.median(peer),
        peer_name,
        statistics.median(ratios),
        (ratios[0], ratios[-1]),
        statistics.median(floor) if floor else None,
        target,
    )


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run `command` to its end. Raises `BenchError` where it fails."""
    read_end, write_end = os.pipe()
    with open(read_end, encoding="ascii") as reports, tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", LAUNCHER, str(write_end), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[write_end],
        ):
            os.close(write_end)
            peak, report = 0, ""
            if pid := reports.readline():
                with _sampled(int(pid)) as largest:
                    report = reports.readline()
                peak = largest()
        output.seek(0)
        said = output.read().decode(errors="replace")
    if not report:
        raise BenchError(f"{' '.join(command)}: cannot be started:\n{said}")
    wall, user, system, kib, code = report.split()
    if code != "0":
        raise BenchError(f"{' '.join(command)}: exit code {code}:\n{said}")
    return Usage(float(wall), float(user) + float(system), max(peak, int(kib) << 10))


@contextmanager
def _sampled(root: int) -> Iterator[Callable[[], int]]:
    """Looks now and then at the memory of the process `root` and its descendants together.

    Gives a function that returns the largest sum seen, in bytes.
    """
    largest = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not ended.wait(SAMPLE_SECONDS):
            largest = max(largest, sum(_proportional_size(pid) for pid in _tree(root)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: largest
    finally:
        ended.set()
        watcher.join()


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
        return 0  # it has ended
    return 0


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the programs in a comparison."""

    name: str
    prepare: Callable[[], Sequence[str]]
    """Makes a fresh start, unmeasured, and returns the command to measure."""


def compare(
    subject: str,
    what: str,
    ours: Contender,
    peer: Contender,
    settings: Settings,
    *,
    floor: Contender | None = None,
    target: float | None = None,
    cpu_target: float | None = None,
) -> list[Row]:
    """All in turns, as many rounds as the settings say: the rows of wall time, CPU time, memory.

    `floor` does the least of the work that anyone would have to do. `target` is of the wall time.
    """
    contenders = [ours, peer, *([floor] if floor else [])]
    usages: dict[str, list[Usage]] = {contender.name: [] for contender in contenders}
    for _ in range(settings.rounds):
        for contender in contenders:
            usages[contender.name].append(measure(contender.prepare()))

    def figures(contender: Contender, key: str) -> list[float]:
        unit = MIB if key == "memory" else 1
        return [float(getattr(usage, key)) / unit for usage in usages[contender.name]]

    return [
        row(
            subject,
            f"{what}, {name}",
            unit,
            figures(ours, key),
            figures(peer, key),
            peer.name,
            floor=figures(floor, key) if floor and key != "memory" else (),
            target=wanted,
        )
        for key, name, unit, wanted in (
            ("wall", "wall", "s", target),
            ("cpu", "CPU", "s", cpu_target),
            ("memory", "memory", "MiB", None),
        )
    ]


def program(name: str) -> str:
    """The path of a peer's program, by $CFS_TEST_NAME or on PATH; `BenchError` without."""
    variable = "CFS_TEST_" + name.upper().replace("-", "_").replace(".", "_")
    path = shutil.which(os.environ.get(variable, name))
    if path is None:
        raise BenchError(f"needs {name}, on PATH or by ${variable}")
    return path


def quietly(*command: str) -> None:
    """Run what prepares a measurement. Raises `BenchError` where it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise BenchError(f"{' '.join(command)}:\n{done.stdout.decode(errors='replace')}")


@contextmanager
def scratch_directory(prefix: str, base: str | None = None) -> Iterator[str]:
    """A directory in `base` (None: $TMPDIR, else /var/tmp, which is on a disk); gone at the end."""
    base = base or os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - mkdtemp makes the name
    with tempfile.TemporaryDirectory(prefix=f"cfsfuse-{prefix}-", dir=base) as directory:
        yield directory
