"""Collection: removing what nothing names and nothing uses.

Order and locks:

1. Mark under the shared lock, beside running pulls. This is where the time goes.
2. Take the exclusive lock, which waits for everybody who has the repository open, and mark again;
   only what is new since then has to be read. What is in use is asked again, too: nobody can begin
   to use an image now (`cfsrepo.upkeep.inuse`).
3. Remove links of dead streams and images, then (after those are on disk) dead objects. A process
   that is killed in between leaves objects without links, which the next collection removes, never
   a link to nothing.
4. Go back to the shared lock.

A dry run looks for what is dead under the shared lock, then marks again and leaves out what came to
life meanwhile. Content that a running pull has stored and nothing refers to yet counts as dead.

Quarantine (`cfsfuse/quarantine`, see `cfsrepo.upkeep.repair`) is left alone: its content was put
there for people to look at. So are files in `objects/` that are no objects.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
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
_LINKS: Final = ("streams", "images")
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
    damaged_pins: list[str] = field(default_factory=list)
    """Ids of pins that cannot be read; what their names say is kept."""


@dataclass(frozen=True, slots=True)
class _Dead:
    """A file that is to go."""

    digest: bytes
    """Of the object that it is, or belongs to."""
    size: int
    disk: int
    """Bytes that the file system gives back: none for a file that another repository has too."""


def collect(
    repository: Repository, *, dry_run: bool = False, progress: Progress | None = None
) -> Collected:
    """Remove (or with `dry_run` count) what nothing names or uses. The repository stays open."""
    progress = progress or NoProgress()
    marker = Marker(repository)
    marked = marker.mark()
    if dry_run:
        return _count(repository, marked, marker)
    with repository.exclusive(progress.message):
        return _sweep(repository, marker.mark())


def _count(repository: Repository, marked: Marked, marker: Marker) -> Collected:
    """What a collection would remove now. Changes nothing."""
    links = {category: _dead_links(repository, category, marked.live) for category in _LINKS}
    strays: list[str] = []
    objects = [dead for _, _, dead in _dead_objects(repository, marked.live, strays)]
    trees = [dead for _, _, dead in _dead_trees(repository, marked.live)]
    marked = marker.mark()
    result = _result(marked)
    result.strays = strays
    result.streams, result.images = (
        sum(digest not in marked.live for digest in links[category].values()) for category in _LINKS
    )
    for dead in objects:
        if dead.digest not in marked.live:
            _add_object(result, dead)
    result.disk += sum(dead.disk for dead in trees if dead.digest not in marked.live)
    result.leftovers = len(list(_leftovers(repository)))
    return result


def _sweep(repository: Repository, marked: Marked) -> Collected:
    """Remove what is dead. The caller has the exclusive lock, under which it was marked."""
    result = _result(marked)
    for pin in marked.in_use.dead_pins:
        pins.remove(repository, pin)
    counts = []
    for category in _LINKS:
        dead = _dead_links(repository, category, marked.live)
        for name in dead:
            os.unlink(f"{category}/{name}", dir_fd=repository.fd)
        if dead:
            repository.sync_directory(category)
        counts.append(len(dead))
    result.streams, result.images = counts
    for fd, name, found in _dead_objects(repository, marked.live, result.strays):
        os.unlink(name, dir_fd=fd)
        _add_object(result, found)
    for fd, name, found in _dead_trees(repository, marked.live):
        os.unlink(name, dir_fd=fd)
        result.disk += found.disk
    for path in _leftovers(repository):
        os.unlink(path, dir_fd=repository.fd)
        result.leftovers += 1
    return result


def _result(marked: Marked) -> Collected:
    return Collected(
        kept=marked.in_use.reasons,
        pins=len(marked.in_use.dead_pins),
        damaged_pins=[pin.pin_id for pin in marked.in_use.damaged_pins],
    )


def _add_object(result: Collected, dead: _Dead) -> None:
    result.objects += 1
    result.size += dead.size
    result.disk += dead.disk


def _dead_links(repository: Repository, category: str, live: set[bytes]) -> dict[str, bytes]:
    """The links of streams/ or images/ whose objects go."""
    links = repository.streams() if category == "streams" else repository.images()
    return {name: digest for name, digest in links.items() if digest not in live}


def _dead_objects(
    repository: Repository, live: set[bytes], strays: list[str]
) -> Iterator[tuple[int, str, _Dead]]:
    """The objects to remove: descriptor of their directory, name in it. Tells `strays`."""
    store = repository.objects
    for prefix in store.prefixes():
        with linux.opened(prefix, os.O_RDONLY | os.O_DIRECTORY, dir_fd=store.dir_fd) as fd:
            for name in _not_live(prefix, os.listdir(fd), live, store.algorithm):
                digest = digest_from_path(f"{prefix}/{name}", store.algorithm)
                if digest is None:
                    strays.append(f"{store.path}/{prefix}/{name}")
                else:
                    yield fd, name, _dead(fd, name, digest)


def _dead(fd: int, name: str, digest: bytes) -> _Dead:
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    disk = status.st_blocks * _BLOCK if status.st_nlink == 1 else 0
    return _Dead(digest, status.st_size, disk)


def _not_live(prefix: str, names: list[str], live: set[bytes], algorithm: Algorithm) -> list[str]:
    """Those of the names in a directory of objects that are not of `live` ones."""
    size = algorithm.digest_size
    # All names in one go: most are live, and a call for each is what a collection's time is.
    try:
        joined = bytes.fromhex(prefix + prefix.join(names)) if names else b""
    except ValueError:
        joined = b""
    if len(joined) == len(names) * size and set(map(len, names)) <= {2 * (size - 1)}:
        digests = struct.iter_unpack(f"{size}s", joined)
        return [name for name, (digest,) in zip(names, digests, strict=True) if digest not in live]
    # Files among them that are none.
    return [
        name
        for name in names
        if (digest := digest_from_path(f"{prefix}/{name}", algorithm)) is None or digest not in live
    ]


def _dead_trees(repository: Repository, live: set[bytes]) -> Iterator[tuple[int, str, _Dead]]:
    """The hash trees that go with their objects, and what else is in their directories."""
    try:
        prefixes = os.listdir(os.path.join(repository.path, _MERKLE))
    except FileNotFoundError:
        return
    flags = os.O_RDONLY | os.O_DIRECTORY
    for prefix in prefixes:
        if not os.path.isdir(f"{repository.path}/{_MERKLE}/{prefix}"):
            continue
        with linux.opened(f"{_MERKLE}/{prefix}", flags, dir_fd=repository.fd) as fd:
            for name in os.listdir(fd):
                try:
                    digest = bytes.fromhex(prefix + name)
                except ValueError:
                    digest = b""
                if digest not in live:
                    yield fd, name, _dead(fd, name, digest)


def _leftovers(repository: Repository) -> Iterator[str]:
    """What killed processes left: nobody writes while the lock is held exclusively."""
    places = (
        (".", (refs.TEMPORARY_PREFIX, f"{metajson.FILE_NAME}.new")),
        ("objects", (TEMPORARY_PREFIX,)),
        (PRIVATE_DIRECTORY, ("verity.new",)),
        (f"{PRIVATE_DIRECTORY}/pins", (".",)),
        (_MERKLE, (TEMPORARY_PREFIX,)),
        (f"{PRIVATE_DIRECTORY}/downloads", ("sha",)),  # all of them: pulls hold the lock
    )
    for directory, prefixes in places:
        try:
            names = os.listdir(os.path.join(repository.path, directory))
        except FileNotFoundError:
            continue
        yield from (f"{directory}/{name}" for name in names if name.startswith(prefixes))
