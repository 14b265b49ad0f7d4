"""Using a mount of an image, beside composefs-fuse, cfsctl's FUSE and the kernel.

All mount the same image of the same repository. `cold`: caches dropped and mounted anew. `warm`:
the same again. `requests` are what the kernel sent to the server, counted by its own trace point.
Needs root, to drop caches and to mount by the kernel; contenders that are not installed are left
out.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench_pull import image
from measure import BenchError, Row, Settings, program, quietly, row, scratch_directory

SUBJECT = "fuse"
DESCRIPTION = "find, ls, stat, getfattr, tar, cat, sequential and random reads in a mounted image"
QUICK = False

PLAIN, UNVERIFIED = "cfs", "cfs, unverified"
DIRECT, STOCK = "cfs, direct", "cfs, stock pyfuse3"
NOT_TOLD = 0.3  # seconds under which a ratio of such servers says nothing
C, RUST, KERNEL = "composefs-fuse", "cfsctl --fuse", "kernel"
TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRACING = "/sys/kernel/tracing"
RANDOM_READS = 3000

# (what, peer, cold or warm) -> ratio that we set out to stay below
TARGETS = {
    **{(name, RUST, "warm"): 1.2 for name in ("find", "ls -lR", "stat", "getfattr -R")},
    **{(name, RUST, "cold"): 1.5 for name in ("find", "ls -lR", "stat", "getfattr -R")},
    ("tar", C, "warm"): 1.0,
    ("tar", UNVERIFIED, "cold"): 1.6,
    ("tar", UNVERIFIED, "warm"): 1.05,
}
REQUEST_TARGETS = ("find", "ls -lR", "tar")


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that is done in a mount; its output is thrown away."""

    name: str
    run: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Server:
    """A way to mount the image."""

    name: str
    mount: Callable[[str], None]
    umount: Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What a workload cost: seconds, those of the server's CPU, and FUSE requests if counted."""

    seconds: float
    server: float
    requests: int | None


def shell(command: str) -> Callable[[str], None]:
    """A workload that is a shell command, run in the mount; it may complain (a dead symlink)."""

    def run(directory: str) -> None:
        quiet = f"( {command} ) >/dev/null 2>&1"
        subprocess.run(["sh", "-c", quiet], cwd=directory, check=False)

    return run


def stat_all(directory: str) -> None:
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            os.lstat(os.path.join(parent, name))


def largest(directory: str) -> str:
    """The largest file, found by its attributes."""
    found = max(
        (entry.stat(follow_symlinks=False).st_size, entry.path)
        for parent, _, _ in os.walk(directory)
        for entry in os.scandir(parent)
        if entry.is_file(follow_symlinks=False)
    )
    return found[1]


def workloads(big: str) -> list[Workload]:
    """`big` is the path of a large file below the mount."""

    def sequential(directory: str) -> None:
        with open(os.path.join(directory, big), "rb", buffering=0) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass

    def at_random(directory: str) -> None:
        generator = random.Random(1)  # noqa: S311 - the same for all
        fd = os.open(os.path.join(directory, big), os.O_RDONLY)
        try:
            blocks = os.fstat(fd).st_size // 4096
            for _ in range(RANDOM_READS):
                os.pread(fd, 4096, generator.randrange(blocks) * 4096)
        finally:
            os.close(fd)

    return [
        Workload("find", shell("find .")),
        Workload("ls -lR", shell("ls -lR .")),
        Workload("stat", stat_all),
        Workload("getfattr -R", shell("getfattr -R -h -m - .")),
        # GNU tar reads no data for an archive that is /dev/null.
        Workload("tar", shell("tar cf - . | cat")),
        Workload("cat all", shell("find . -type f -print0 | xargs -0 -P4 cat")),
        Workload("sequential read", sequential),
        Workload("random 4 KiB reads", at_random),
    ]


def servers(repository: str, image_file: str, scratch: str) -> Iterator[Server]:
    """All that are installed here."""
    objects = os.path.join(repository, "objects")

    def quiet(command: Sequence[str], **more: str) -> None:
        with open(os.path.join(scratch, "log"), "ab") as log:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **more},
                check=False,
            )
        if done.returncode:
            raise BenchError(f"{' '.join(command)}: failed, see {scratch}/log")

    def ours(*options: str) -> Callable[[str], None]:
        command = [sys.executable, "-m", "cfstools", "--repo", repository, "mount", "bench"]
        return lambda point: quiet([*command, point, "--fuse", *options])

    def umount(point: str) -> None:
        for _ in range(100):
            if subprocess.run(["umount", point], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        raise BenchError(f"{point}: cannot be unmounted")

    yield Server(PLAIN, ours(), umount)
    yield Server(UNVERIFIED, ours("--verify=off"), umount)
    yield Server(DIRECT, ours("--engine=direct"), umount)
    stock = os.path.join(scratch, "stock")
    build = [sys.executable, os.path.join(TOOLS, "pyfuse3", "build.py"), "--stock"]
    with contextlib.suppress(BenchError):
        quiet([*build, "--target", stock])
        found = f"{stock}:{os.environ.get('PYTHONPATH', '')}"
        command_line = [sys.executable, "-m", "cfstools", "--repo", repository, "mount", "bench"]
        yield Server(
            STOCK, lambda point: quiet([*command_line, point, "--fuse"], PYTHONPATH=found), umount
        )
    with contextlib.suppress(BenchError):
        composefs_fuse = program("composefs-fuse")
        source = f"source={image_file},basedir={objects}"
        yield Server(C, lambda point: quiet([composefs_fuse, "-o", source, point]), umount)
    with contextlib.suppress(BenchError):
        cfsctl = program("cfsctl")
        command = [cfsctl, "--repo", repository, "oci", "mount", "--fuse", "yes", "bench"]
        yield Server(RUST, lambda point: quiet([*command, point]), umount)
    kernel = [sys.executable, "-m", "cfstools", "--repo", repository, "mount", "bench"]
    yield Server(KERNEL, lambda point: quiet([*kernel, point, "--kernel"]), umount)


@contextmanager
def counted(directory: str) -> Iterator[Callable[[], int | None]]:
    """Counts the requests of the FUSE connection behind `directory`, by a trace point."""
    instance = f"{TRACING}/instances/cfsfuse-bench"
    try:
        if not os.path.isdir(f"{TRACING}/instances"):
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=True)
        os.makedirs(instance, exist_ok=True)
        event = f"{instance}/events/fuse/fuse_request_send"
        minor = os.minor(os.stat(directory).st_dev)
        _write(f"{event}/filter", f"connection == {minor}")
        _write(f"{event}/enable", "1")
    except (OSError, subprocess.SubprocessError):
        yield lambda: None
        return

    def total() -> int:
        count = 0
        for path in glob.glob(f"{instance}/per_cpu/cpu*/stats"):
            with open(path, encoding="ascii") as file:
                for line in file:
                    key, _, value = line.partition(":")
                    if key in ("entries", "overrun"):
                        count += int(value)
        return count

    before = total()
    try:
        yield lambda: total() - before
    finally:
        _write(f"{event}/enable", "0")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def drop_caches() -> None:
    os.sync()
    _write("/proc/sys/vm/drop_caches", "3")


def timed(workload: Workload, directory: str) -> Result:
    with counted(directory) as count:
        used = server_seconds(directory)
        began = time.monotonic()
        workload.run(directory)
        seconds = time.monotonic() - began
        return Result(seconds, server_seconds(directory) - used, count())


def server_seconds(directory: str) -> float:
    """CPU time of the processes that were given the mount point as an argument: its server."""
    ticks = 0
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            with open(path, "rb") as file:
                if os.fsencode(directory) not in file.read().split(b"\0"):
                    continue
            with open(path.replace("cmdline", "stat"), "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(server: Server, point: str, tasks: list[Workload]) -> dict[tuple[str, str], Result]:
    """Each workload cold and warm."""
    results = {}
    for task in tasks:
        drop_caches()
        server.mount(point)
        try:
            results[task.name, "cold"] = timed(task, point)
            results[task.name, "warm"] = timed(task, point)
        finally:
            server.umount(point)
    return results


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    if os.geteuid() != 0:
        raise BenchError("needs root")
    with scratch_directory("fuse") as scratch:
        repository = os.path.join(scratch, "repository")
        cfs = [sys.executable, "-m", "cfstools", "--repo", repository]
        quietly(*cfs, "init")
        quietly(*cfs, "pull", image(), "bench")
        (image_file,) = (
            path
            for path in glob.glob(os.path.join(repository, "images", "*"))
            if os.path.basename(path) != "refs"
        )
        point = os.path.join(scratch, "mnt")
        os.mkdir(point)
        return compared(list(servers(repository, image_file, scratch)), point, settings.rounds)


# server -> (workload, cold or warm) -> the result of each round
Results = dict[str, dict[tuple[str, str], list[Result]]]


def compared(contenders: list[Server], point: str, rounds: int) -> list[Row]:
    """The results of all rounds; contenders take turns, so that a busy minute hits all."""
    contenders[0].mount(point)
    try:
        tasks = workloads(os.path.relpath(largest(point), point))
    finally:
        contenders[0].umount(point)
    if shutil.which("getfattr") is None:
        tasks = [task for task in tasks if not task.name.startswith("getfattr")]
    results: Results = {}
    for number in range(rounds):
        for server in list(contenders):
            try:
                round_results = measured(server, point, tasks)
            except BenchError as error:
                print(f"bench: fuse: {server.name} is left out: {error}", file=sys.stderr)
                contenders.remove(server)
                results.pop(server.name, None)
                continue
            kept = results.setdefault(server.name, {})
            for key, result in round_results.items():
                kept.setdefault(key, []).append(result)
        print(f"bench: fuse: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return list(rows(results, tasks))


def rows(results: Results, tasks: list[Workload]) -> Iterator[Row]:
    """Ours beside each other server; the kernel's own mount is the floor."""
    ours = results.get(PLAIN)
    if ours is None:
        raise BenchError("our own mount failed")
    for task in tasks:
        for state in ("cold", "warm"):
            key = task.name, state
            mine = ours[key]
            floor = [result.seconds for result in results.get(KERNEL, {}).get(key, [])]
            for name, others in results.items():
                if name in (PLAIN, KERNEL):
                    continue
                other = others[key]
                what = f"{task.name}, {state}"
                yield row(
                    SUBJECT,
                    what,
                    "s",
                    [result.seconds for result in mine],
                    [result.seconds for result in other],
                    name,
                    floor=floor,
                    target=TARGETS.get((task.name, name, state)),
                )
                if min(result.server for result in mine + other) > NOT_TOLD:
                    yield row(
                        SUBJECT,
                        f"{what}, CPU of the server",
                        "s",
                        [result.server for result in mine],
                        [result.server for result in other],
                        name,
                    )
                if name == C and all(result.requests is not None for result in mine + other):
                    yield row(
                        SUBJECT,
                        f"{what}, requests",
                        "",
                        [result.requests or 0 for result in mine],
                        [max(result.requests or 0, 1) for result in other],
                        name,
                        target=1.0 if task.name in REQUEST_TARGETS else None,
                    )
