"""fs-verity of a whole repository: how much of it is protected, and protecting all of it in place.

A repository can be without: it was made on a file system that had no fs-verity yet, or with another
policy, or copied (no copying tool keeps it). Enabling it needs no second copy of the data: the
kernel reads each file once and builds its hash tree.

Order: all objects; then, with the exclusive lock held so that nobody stores unprotected ones, those
that came meanwhile; then the record in `cfsfuse/verity`; then `meta.json`, which makes cfsctl
require it too. An interrupted run has protected some objects and raised nothing; the next one goes
on. The policy is not raised while an object is damaged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cfsrepo.errors import VerityError
from cfsrepo.formats import fsverity, metajson
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import kernelverity, metafiles
from cfsrepo.store.kernelverity import enable_when_idle, unsupported
from cfsrepo.store.objects import ObjectStore, digest_from_path, object_path
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux, pool


@dataclass(slots=True)
class Protection:
    """How much of a repository the kernel protects."""

    policy: VerityPolicy
    supported: bool
    """The file system has fs-verity."""
    meta: bool
    """`meta.json` is protected, so that cfsctl requires it too."""
    protected: int = 0
    unprotected: int = 0
    damaged: list[str] = field(default_factory=list)
    """Objects whose measured digest is not their name; paths in the repository."""


def is_supported(repository: Repository) -> bool:
    """Whether the repository's file system has fs-verity; tried out on a file without a name."""
    flags = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
    fd = os.open(".", flags, 0o600, dir_fd=repository.fd)
    try:
        os.write(fd, b"probe")
        reader = linux.reopen(fd, os.O_RDONLY)
    finally:
        os.close(fd)
    try:
        return enable_when_idle(reader, repository.algorithm)
    finally:
        os.close(reader)


def status(repository: Repository, *, workers: int | None = None) -> Protection:
    """Ask the kernel about every object. Changes nothing."""
    result = Protection(repository.policy, is_supported(repository), _meta_protected(repository))
    store = repository.objects

    def work(prefix: str) -> tuple[int, int, list[str]]:
        counts = [0, 0]
        damaged = []
        for digest in _digests(store, prefix):
            with linux.opened(object_path(digest), os.O_RDONLY, dir_fd=store.dir_fd) as fd:
                measured = kernelverity.measure(fd, store.algorithm)
            counts[measured is not None] += 1
            if measured not in (None, digest):
                damaged.append(f"objects/{object_path(digest)}")
        return counts[1], counts[0], damaged

    for _, (protected, unprotected, damaged) in pool.run(store.prefixes(), work, workers):
        result.protected += protected
        result.unprotected += unprotected
        result.damaged += damaged
    result.damaged.sort()
    return result


def enable(
    repository: Repository, *, progress: Progress | None = None, workers: int | None = None
) -> Protection:
    """Protect every object, then raise the policy to `require`.

    `VerityError` where the file system has no fs-verity (its hint says the command that gives it
    to it), or where objects are damaged: then those are named, and the policy stays as it is.
    """
    repository.check_writable()
    progress = progress or NoProgress()
    if not is_supported(repository):
        raise unsupported(repository.path)
    done: set[bytes] = set()
    damaged = _protect_all(repository, done, progress, workers)
    with repository.exclusive(progress.message):
        damaged += _protect_all(repository, done, progress, workers)
        if damaged:
            shown = ", ".join(sorted(damaged)[:3]) + (", ..." if len(damaged) > 3 else "")
            raise VerityError(
                f"{repository.path}: {len(damaged)} objects are damaged: {shown}",
                hint="'cfs fsck --repair --from SOURCE', then again",
            )
        repository.sync()
        metafiles.write_policy(repository.fd, VerityPolicy.REQUIRE)
        with linux.opened(metajson.FILE_NAME, os.O_RDONLY, dir_fd=repository.fd) as fd:
            enable_when_idle(fd, repository.algorithm)
        repository.sync()
    return Protection(VerityPolicy.REQUIRE, True, True, protected=len(done))


def _protect_all(
    repository: Repository, done: set[bytes], progress: Progress, workers: int | None
) -> list[str]:
    """Protect the objects that are not in `done`, and put them there; returns damaged ones."""
    store = repository.objects
    groups: dict[str, list[bytes]] = {}
    for prefix in store.prefixes():
        if new := [digest for digest in _digests(store, prefix) if digest not in done]:
            groups[prefix] = new
    total = sum(len(group) for group in groups.values())
    if not total:
        return []
    task = "fs-verity"
    progress.start(task, total, "objects")
    damaged: list[str] = []

    def work(group: list[bytes]) -> list[str]:
        return [f"objects/{object_path(digest)}" for digest in group if not _protect(store, digest)]

    for group, bad in pool.run(list(groups.values()), work, workers):
        done.update(group)
        damaged += bad
        progress.advance(task, len(group))
    progress.finish(task)
    return damaged


def _protect(store: ObjectStore, digest: bytes) -> bool:
    """Protect one object; False where the kernel then measures another digest."""
    with linux.opened(object_path(digest), os.O_RDONLY | os.O_NOFOLLOW, dir_fd=store.dir_fd) as fd:
        measured = kernelverity.measure(fd, store.algorithm)
        if measured is None:
            # Protecting a damaged file would make it hard to see what is wrong with it later.
            if fsverity.digest_fd(fd, store.algorithm) != digest:
                return False
            enable_when_idle(fd, store.algorithm)
            measured = kernelverity.measure(fd, store.algorithm)
        return measured == digest


def _digests(store: ObjectStore, prefix: str) -> list[bytes]:
    names = sorted(os.listdir(f"{store.path}/{prefix}"))
    found = (digest_from_path(f"{prefix}/{name}", store.algorithm) for name in names)
    return [digest for digest in found if digest is not None]


def _meta_protected(repository: Repository) -> bool:
    with linux.opened(metajson.FILE_NAME, os.O_RDONLY, dir_fd=repository.fd) as fd:
        return kernelverity.measure(fd, repository.algorithm) is not None
