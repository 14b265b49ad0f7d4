"""What tests of pulls have in common: some layers, and looks into a repository."""

from __future__ import annotations

import os

from cfsrepo.formats.splitstream import Digest, SplitStream
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import base, directory, member

GOOD = base(member(b"f", b"x" * 5000), member(b"inline", b"y" * 64), directory(b"d"))
BIG = base(*(member(b"%d" % number, os.urandom(40_000)) for number in range(100)))


def visible(repo: Repository) -> dict[str, str]:
    """All of a repository but its objects: path -> link target or content."""
    found = {}
    for parent, directories, files in os.walk(repo.path):
        if parent == repo.path:
            directories.remove("objects") if "objects" in directories else None
        for name in directories + files:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path] = repr(file.read())
    return found


def temporary_objects(repo: Repository) -> list[str]:
    objects = os.path.join(repo.path, "objects")
    return (
        [name for name in os.listdir(objects) if len(name) != 2] if os.path.isdir(objects) else []
    )


def content(repo: Repository, stream: SplitStream) -> bytes:
    return b"".join(
        repo.objects.read(part) if isinstance(part, Digest) else part for part in stream.chunks()
    )


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))
