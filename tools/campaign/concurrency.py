"""Pullers, a tagger, a collector and readers working on one repository at the same time."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from workload import CampaignError

from cfsrepo.errors import NotFoundError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images import names, neededobjects
from cfsrepo.oci.importer import pull
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import fsck
from cfsrepo.upkeep.gc import collect

_GRACE = 60.0  # seconds that everybody has to come to an end
_PULLERS = 4
_READERS = 2
_KEPT = "kept"

Work = Callable[[str, list[str], random.Random, int], int]


def campaign(directory: str, sources: list[str], seconds: float, seed: int) -> dict[str, int]:
    """Run everybody for `seconds`; returns how often each did its work to the end."""
    path = f"{directory}/concurrent"
    with Repository.init(path) as repository:
        pull(repository, sources[0], _KEPT)
    workers: list[tuple[str, Work]] = [
        *((f"puller {number}", _pull) for number in range(_PULLERS)),
        ("tagger", _tag),
        ("collector", _collect),
        *((f"reader {number}", _read) for number in range(_READERS)),
    ]
    running: dict[int, tuple[str, int]] = {}
    end = time.monotonic() + seconds
    for number, (name, work) in enumerate(workers):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _work(work, path, sources, random.Random(seed * 100 + number), number, end, writing)
        os.close(writing)
        running[pid] = name, reading
    counts = _wait(running, end + _GRACE)
    with Repository.open(path) as repository:
        _check(repository)
    return counts


def _work(
    work: Work,
    path: str,
    sources: list[str],
    source: random.Random,
    number: int,
    end: float,
    result: int,
) -> NoReturn:
    """A process: its work again and again; then how often, or what went wrong."""
    code = 1
    try:
        count = 0
        while time.monotonic() < end:
            count += work(path, sources, source, number)
        os.write(result, b"%d" % count)
        code = 0
    except BaseException:  # noqa: BLE001 - told to the parent, as it is
        os.write(result, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(code)


def _wait(running: dict[int, tuple[str, int]], deadline: float) -> dict[str, int]:
    counts: dict[str, int] = {}
    failures = []
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            name, reading = running.pop(pid)
            with open(reading, "rb") as file:
                text = file.read().decode(errors="replace")
            if status:
                failures.append(f"{name}: {text}")
            else:
                counts[name] = int(text)
        elif time.monotonic() > deadline:
            stuck = ", ".join(name for name, _ in running.values())
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            raise CampaignError(f"deadlock: {stuck} did not come to an end")
        else:
            time.sleep(0.01)
    if failures:
        raise CampaignError("\n".join(failures))
    return counts


# --- who does what -------------------------------------------------------------------------------


def _pull(path: str, sources: list[str], source: random.Random, number: int) -> int:
    """Pull an image under a name of one's own; at times take the name off again."""
    chosen = source.randrange(len(sources))
    with Repository.open(path) as repository:
        image = pull(repository, sources[chosen], f"puller{number}")
        # What was pulled is there as long as the repository stays open.
        if names.resolve(repository, f"puller{number}").image_id != image.image_id:
            raise CampaignError("a name means something else than what was just pulled")
        if source.random() < 0.6:
            repository.untag(f"puller{number}")
    return 1


def _tag(path: str, sources: list[str], source: random.Random, number: int) -> int:
    """Name whatever image there is, and take such names off."""
    with Repository.open(path) as repository:
        content_id = source.choice(sorted(repository.tags().values()))
        try:
            repository.tag(f"tagger{source.randrange(5)}", content_id)
            repository.untag(f"tagger{source.randrange(5)}")
        except NotFoundError:
            pass  # a name that was not there, which is what random names are for
    time.sleep(0.005)
    return 1


def _collect(path: str, sources: list[str], source: random.Random, number: int) -> int:
    with Repository.open(path) as repository:
        collect(repository)
    time.sleep(0.02)
    return 1


def _read(path: str, sources: list[str], source: random.Random, number: int) -> int:
    """Read all of an image that has a name: every byte must be there and right."""
    with Repository.open(path) as repository:
        name = source.choice([image.name for image in names.list_images(repository)])
        try:
            image_id = names.resolve(repository, name).image_id
        except NotFoundError:
            return 0  # it was untagged between the two
        with repository.open_image(image_id) as data:
            objects = neededobjects.needed_objects(ErofsImage(data, name), repository.algorithm)
        if not objects:
            raise CampaignError(f"{name}: no files")
        for digest, size in objects.items():
            if len(repository.objects.read(digest)) != size:
                raise CampaignError(f"{name}: a file of another size")
    return 1


def _check(repository: Repository) -> None:
    """At the end everything is sound, and what was named all the time is there."""
    checked = fsck.check(repository, workers=1)
    if not checked.clean:
        problem = checked.problems[0]
        raise CampaignError(f"{problem.path}: {problem.kind}; {len(checked.problems)} problems")
    if _KEPT not in repository.tags():
        raise CampaignError("a name was lost")
    collect(repository)
    if collect(repository, dry_run=True).objects:
        raise CampaignError("a collection left garbage")
    if not fsck.check(repository, workers=1).clean:
        raise CampaignError("a collection removed what is needed")
