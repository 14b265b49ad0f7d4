#!/usr/bin/env python3
"""The least that a phase can cost: the same data, in the best way known, and nothing else.

usage: floors.py pull DIRECTORY     unpack and hash the layers of an OCI layout, on all processors
       floors.py read FILE...       read files that are in the page cache
       floors.py digest FILE...     fs-verity digests of files, by one thread

`pull` is: sha256 of the blob, decompression, sha256 of the tar, and the hashes of its 4 KiB blocks
in place of the objects' digests. It stores nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Protocol

from cfsrepo.formats import fsverity

CHUNK = 1 << 20


class Decompressor(Protocol):
    """Of zlib and of isal alike."""

    def decompress(self, data: bytes) -> bytes: ...


def _gunzip() -> Decompressor:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj(31)
    unpacked: Decompressor = isal_zlib.decompressobj(31)
    return unpacked


def unpack(blob: IO[bytes]) -> None:
    """What a layer's bytes cost whoever pulls it. No layers but gzip's."""
    packed, plain = hashlib.sha256(), hashlib.sha256()
    unpacker = _gunzip()
    while data := blob.read(CHUNK):
        packed.update(data)
        tar = unpacker.decompress(data)
        plain.update(tar)
        fsverity.hash_blocks(tar, fsverity.Algorithm.SHA256)


def pull(directory: str) -> None:
    """The layers of the layout's image, side by side."""

    def document(digest: str) -> dict[str, list[dict[str, str]]]:
        with open(path(digest), encoding="utf-8") as file:
            loaded: dict[str, list[dict[str, str]]] = json.load(file)
            return loaded

    def path(digest: str) -> str:
        return os.path.join(directory, "blobs", digest.replace(":", "/"))

    def layer(digest: str) -> None:
        with open(path(digest), "rb", buffering=0) as blob:
            unpack(blob)

    with open(os.path.join(directory, "index.json"), encoding="utf-8") as file:
        manifest = json.load(file)["manifests"][0]["digest"]
    digests = [entry["digest"] for entry in document(manifest)["layers"]]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(layer, digests))


def read(name: str) -> None:
    """A file, through a small buffer."""
    buffer = bytearray(256 << 10)
    with open(name, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def digest(name: str) -> None:
    """The fs-verity digest of a file."""
    with open(name, "rb", buffering=0) as file:
        fsverity.digest_fd(file.fileno())


def main() -> None:
    """Do what is asked for."""
    action = {"pull": pull, "read": read, "digest": digest}[sys.argv[1]]
    for argument in sys.argv[2:]:
        action(argument)


if __name__ == "__main__":
    main()
