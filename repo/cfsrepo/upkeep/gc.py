"""Collection: removing what nothing names and nothing uses.

Order and locks:

1. Mark under the shared lock, beside running pulls. This is where the time goes.
2. Take the exclusive lock, which waits for everybody who has the repository open, and mark again;
   only what is new since then has to be read.
3. Remove links of dead streams and images, then (after those are on disk) dead objects. A process
   that is killed in between leaves objects without links, which the next collection removes, never
   a link to nothing.
4. Go back to the shared lock.

A dry run does 1 and counts, under the shared lock. Nothing else changes in between in both cases,
so it says what the collection would free if it ran now.

Quarantine (`cfsfuse/quarantine`, see `cfsrepo.upkeep.repair`) is left alone: its content was put
there for people to look at. So are files in `objects/` that are no objects.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from cfsrepo.formats import metajson
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import pins, refs
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.objects import digest_from_path
from cfsrepo.store.repository import Repository
from cfsrepo.store.temporary import TEMPORARY_PREFIX
from cfsrepo.system import linux
from cfsrepo.upkeep.reachability import Marked, Marker

_MERKLE: Final = f"{PRIVATE_DIRECTORY}/merkle"  # hash trees of large objects, by object
_BLOCK: Final = 512  # st_blocks counts these


@dataclass(slots=True)
class Collected:
    """What a collection removed, or a dry run would."""

    objects: int = 0
    """Number of objects."""
    size: int = 0
    """Their sizes, in bytes."""
    disk: int = 0
    """What the file system gives back, in bytes: of objects and hash trees."""
    streams: int = 0
    """Links in streams/."""
    images: int = 0
    """Links in images/."""
    leftovers: int = 0
    """Files of processes that were killed."""
    pins: int = 0
    """Pins of processes and mounts that are gone."""
    strays: list[str] = field(default_factory=list)
    """Files among the objects that are none; left alone."""
    kept: dict[str, list[str]] = field(default_factory=dict)
    """Image id -> why it is kept though it may have no name."""


def collect(
    repository: Repository, *, dry_run: bool = False, progress: Progress | None = None
) -> Collected:
    """Remove (or with `dry_run` count) what nothing names or uses. The repository stays open."""
    progress = progress or NoProgress()
    marker = Marker(repository)
    marked = marker.mark()
    if dry_run:
        return _sweep(repository, marked, dry_run=True)
    with repository.exclusive(progress.message):
        return _sweep(repository, marker.mark(), dry_run=False)


def _sweep(repository: Repository, marked: Marked, *, dry_run: bool) -> Collected:
    result = Collected(kept=marked.kept)
    result.pins = len(pins.read(repository))
    result.pins -= len(pins.live(repository, drop=not dry_run))
    result.streams = _sweep_links(repository, "streams", repository.streams(), marked, dry_run)
    result.images = _sweep_links(repository, "images", repository.images(), marked, dry_run)
    _sweep_objects(repository, marked.live, result, dry_run)
    _sweep_trees(repository, marked.live, result, dry_run)
    _sweep_leftovers(repository, result, dry_run)
    return result


def _sweep_links(
    repository: Repository, category: str, links: dict[str, bytes], marked: Marked, dry_run: bool
) -> int:
    """Remove the links whose objects go; returns their number. On disk when it returns."""
    dead = [name for name, digest in links.items() if digest not in marked.live]
    if dead and not dry_run:
        for name in dead:
            os.unlink(f"{category}/{name}", dir_fd=repository.fd)
        repository.sync_directory(category)
    return len(dead)


def _sweep_objects(
    repository: Repository, live: set[bytes], result: Collected, dry_run: bool
) -> None:
    store = repository.objects
    for prefix in store.prefixes():
        with linux.opened(prefix, os.O_RDONLY | os.O_DIRECTORY, dir_fd=store.dir_fd) as fd:
            for name in _not_live(prefix, os.listdir(fd), live, store.algorithm):
                if digest_from_path(f"{prefix}/{name}", store.algorithm) is None:
                    result.strays.append(f"{store.path}/{prefix}/{name}")
                    continue
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not dry_run:
                    os.unlink(name, dir_fd=fd)
                result.objects += 1
                result.size += status.st_size
                # A file that another repository has too stays where it is.
                if status.st_nlink == 1:
                    result.disk += status.st_blocks * _BLOCK


def _not_live(prefix: str, names: list[str], live: set[bytes], algorithm: Algorithm) -> list[str]:
    """Those of the names in a directory of objects that are not of `live` ones."""
    size = algorithm.digest_size
    first = bytes.fromhex(prefix)
    # All names in one go: most are live, and a call for each is what a collection's time is.
    try:
        rests = bytes.fromhex("".join(names))
    except ValueError:
        rests = b""
    if len(rests) == len(names) * (size - 1) and set(map(len, names)) == {2 * (size - 1)}:
        digests = {first + rests[at : at + size - 1] for at in range(0, len(rests), size - 1)}
        if len(digests) == len(names):
            return sorted(digest.hex()[2:] for digest in digests - live)
    # Files among them that are none.
    return [
        name
        for name in names
        if (digest := digest_from_path(f"{prefix}/{name}", algorithm)) is None or digest not in live
    ]


def _sweep_trees(
    repository: Repository, live: set[bytes], result: Collected, dry_run: bool
) -> None:
    """Hash trees go with their objects. Anything else in their directory goes as well."""
    try:
        prefixes = os.listdir(os.path.join(repository.path, _MERKLE))
    except FileNotFoundError:
        return
    for prefix in prefixes:
        if not os.path.isdir(f"{repository.path}/{_MERKLE}/{prefix}"):
            result.leftovers += 1  # a tree on its way
            if not dry_run:
                os.unlink(f"{_MERKLE}/{prefix}", dir_fd=repository.fd)
            continue
        with linux.opened(
            f"{_MERKLE}/{prefix}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=repository.fd
        ) as fd:
            for name in os.listdir(fd):
                try:
                    dead = bytes.fromhex(prefix + name) not in live
                except ValueError:
                    dead = True
                if dead:
                    result.disk += os.stat(name, dir_fd=fd).st_blocks * _BLOCK
                    if not dry_run:
                        os.unlink(name, dir_fd=fd)


def _sweep_leftovers(repository: Repository, result: Collected, dry_run: bool) -> None:
    """Remove what a killed process left: nobody writes while the lock is held exclusively."""
    places = (
        (".", (refs.TEMPORARY_PREFIX, f"{metajson.FILE_NAME}.new")),
        ("objects", (TEMPORARY_PREFIX,)),
        (PRIVATE_DIRECTORY, ("verity.new",)),
        (f"{PRIVATE_DIRECTORY}/pins", (".",)),
    )
    for directory, prefixes in places:
        try:
            names = os.listdir(os.path.join(repository.path, directory))
        except FileNotFoundError:
            continue
        for name in names:
            if name.startswith(prefixes):
                result.leftovers += 1
                if not dry_run:
                    os.unlink(f"{directory}/{name}", dir_fd=repository.fd)
