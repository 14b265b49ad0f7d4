"""Damage to the objects of a repository."""

from __future__ import annotations

from pathlib import Path

from cfsrepo.formats import fsverity
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep.findings import Checked, Problem


def path_of(repo: Repository, digest: bytes) -> Path:
    return Path(repo.objects.path, object_path(digest))


def flip(repo: Repository, digest: bytes, at: int | None = None) -> None:
    """Flip a bit of an object."""
    path = path_of(repo, digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x10
    path.write_bytes(data)


def content_digest(repo: Repository, content: bytes) -> bytes:
    return fsverity.digest(content, repo.algorithm)


def only(checked: Checked) -> Problem:
    (problem,) = checked.problems
    return problem
