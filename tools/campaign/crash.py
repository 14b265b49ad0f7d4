"""Commands killed at random instants, and commands on a file system that gets full."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import workload
from workload import CampaignError, Operation, Scene

from cfsrepo import errors
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import veritymigration

_CALIBRATION_RUNS = 3
_ROOM = 64 << 20  # bytes on a file system that is not to get full
_LITTLE = 64 << 10  # room for what needs nearly none


@dataclass(slots=True)
class Counts:
    """What happened to one operation."""

    rounds: int = 0
    interrupted: int = 0
    """Rounds in which the command did not get to its end."""
    freed: int = 0
    """Objects of interrupted commands that collections freed."""


def kill_campaign(
    directory: str, sources: list[str], rounds: int, source: random.Random
) -> dict[str, Counts]:
    """Kill each operation `rounds` times in all, in turn, and check after each."""
    template = f"{directory}/template"
    workload.make_template(template, sources)
    operations = [op for op in workload.OPERATIONS if not op.needs_verity or _verity(template)]
    durations = {op.name: _duration(op, directory, template, sources, source) for op in operations}
    counts = {operation.name: Counts() for operation in operations}
    for number in range(rounds):
        operation = operations[number % len(operations)]
        count = counts[operation.name]
        scene = workload.set_scene(template, f"{directory}/scene", sources, operation, source)
        before = workload.names(scene.repository)
        delay = source.uniform(0, durations[operation.name])
        with _told(f"round {number}: {operation.name} killed after {delay:.4f} s", scene):
            count.rounds += 1
            count.interrupted += workload.run_and_kill(operation.arguments(scene), scene.log, delay)
            workload.check_interrupted(scene, operation, before)
            _again(scene, operation)
            count.freed += workload.check_done(scene, operation)
    return counts


def full_campaign(
    directory: str, sources: list[str], rounds: int, source: random.Random
) -> dict[str, Counts]:
    """Run each operation with little room on the file system; needs the right to mount a tmpfs."""
    operations = [op for op in workload.OPERATIONS if not op.needs_verity]
    counts = {operation.name: Counts() for operation in operations}
    point = f"{directory}/small"
    os.makedirs(point, exist_ok=True)
    template = f"{directory}/template-full"
    workload.make_template(template, sources)
    needs: dict[str, int] = {}
    for operation in operations:
        with _tmpfs(point):
            scene = workload.set_scene(template, f"{point}/scene", sources, operation, source)
            before_run = _used(point)
            _again(scene, operation)
            needs[operation.name] = max(_LITTLE, _used(point) - before_run)
    for number in range(rounds):
        operation = operations[number % len(operations)]
        count = counts[operation.name]
        with _tmpfs(point):
            scene = workload.set_scene(template, f"{point}/scene", sources, operation, source)
            scene_log = f"{directory}/full.log"
            before = workload.names(scene.repository)
            room = source.randrange(0, needs[operation.name]) // 4096 * 4096
            with _told(f"round {number}: {operation.name} with {room} bytes left", scene):
                _resize(point, _used(point) + room)
                count.rounds += 1
                code = workload.run(operation.arguments(scene), scene_log)
                if code not in (errors.EXIT_OK, errors.SystemFailure.exit_code):
                    raise CampaignError(f"exit code {code}: {workload.said(scene_log)}")
                count.interrupted += code != errors.EXIT_OK
                workload.check_interrupted(scene, operation, before)
                _resize(point, _used(point) + _ROOM)
                _again(scene, operation)
                count.freed += workload.check_done(scene, operation)
    return counts


def _again(scene: Scene, operation: Operation) -> None:
    """The same command again succeeds."""
    code = workload.run(operation.arguments(scene), scene.log)
    if code != errors.EXIT_OK:
        raise CampaignError(f"again: exit code {code}: {workload.said(scene.log)}")


def _duration(
    operation: Operation,
    directory: str,
    template: str,
    sources: list[str],
    source: random.Random,
) -> float:
    """Seconds that the operation takes when nobody disturbs it."""
    longest = 0.0
    for _ in range(_CALIBRATION_RUNS):
        scene = workload.set_scene(template, f"{directory}/scene", sources, operation, source)
        begin = time.monotonic()
        _again(scene, operation)
        longest = max(longest, time.monotonic() - begin)
        workload.check_done(scene, operation)
    return longest


def _verity(path: str) -> bool:
    with Repository.open(path) as repository:
        return veritymigration.is_supported(repository)


@contextmanager
def _told(what: str, scene: Scene) -> Iterator[None]:
    """Say in which round something went wrong; its repository is left in place."""
    try:
        yield
    except (CampaignError, errors.CfsError, OSError) as error:
        raise CampaignError(f"{what}: {error}; see {scene.directory}") from error


# --- a file system of a certain size -------------------------------------------------------------


@contextmanager
def _tmpfs(point: str) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "campaign", point]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def _resize(point: str, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", point], check=True)


def _used(point: str) -> int:
    status = os.statvfs(point)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
