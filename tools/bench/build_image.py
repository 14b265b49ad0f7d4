#!/usr/bin/env python3
"""Build the benchmarks' OCI images.

usage: build_image.py [KIND [DIRECTORY]]     prints oci:DIRECTORY:KIND

    big     tens of thousands of files of Debian packages, about a gigabyte, 3 gzip layers (default)
    many    200,000 tiny files, 2 gzip layers
    fat     a file of 4 GB, half of which compresses well, in one gzip layer
    small   20,000 tiny files and one of 64 MB, for a quick run

Built once, into a cache directory unless DIRECTORY is given. That takes minutes, and gigabytes of
scratch space.
"""

from __future__ import annotations

import io
import os
import random
import sys
from typing import IO

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import imagebuilder

MIB = 1 << 20

# Many small files (headers), some big ones (a Java run-time image, compilers), some of each
# ordinary kind: what a development image holds.
PACKAGES = (
    "build-essential",
    "default-jdk-headless",
    "git",
    "iputils-ping",
    "libboost-dev",
    "linux-headers-amd64" if os.uname().machine == "x86_64" else "linux-headers-generic",
    "perl",
    "python3-scipy",
    "vim",
)


def layer_of(name: str) -> int:
    """The layer that path `name` goes to: base, development files, big applications."""
    if name.startswith(("usr/include/", "usr/src/", "usr/share/", "usr/lib/python3/")):
        return 1
    if name.startswith(("usr/lib/jvm/", "usr/lib/gcc/", "usr/libexec/")):
        return 2
    return 0


def big(scratch: str) -> list[imagebuilder.Layer]:
    """The layers of the image of Debian packages."""
    root = os.path.join(scratch, "root.tar")
    imagebuilder.debian_root(root, PACKAGES)
    layers = imagebuilder.split(root, layer_of, ["gzip"] * 3, scratch)
    os.unlink(root)
    return layers


def tiny_files(scratch: str, name: str, count: int) -> imagebuilder.TarBuilder:
    """A layer of `count` files of up to 600 bytes, each different, 200 in a directory."""
    generator = random.Random(name)  # noqa: S311 - the same image everywhere
    tar = imagebuilder.TarBuilder("gzip", scratch)
    tar.directory("usr")
    tar.directory(f"usr/{name}")
    for number in range(count):
        parent = f"usr/{name}/{number // 200}"
        if number % 200 == 0:
            tar.directory(parent)
        text = f"{name} {number} ".encode() * 30
        tar.file(f"{parent}/{number}", text[: generator.randrange(20, 600)])
    return tar


def many(scratch: str) -> list[imagebuilder.Layer]:
    """The layers of the image of tiny files."""
    return [
        tiny_files(scratch, "first", 150_000).finish(),
        tiny_files(scratch, "second", 50_000).finish(),
    ]


class HalfRandom(io.RawIOBase):
    """`size` bytes, the same always: half of each MiB random, half text."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._generator = random.Random("fat")  # noqa: S311 - the same image everywhere
        self._ready = b""

    def read(self, size: int = -1) -> bytes:
        """At least a byte, while there is one."""
        if not self._ready:
            text = b"%d bytes are still to come. " % self._left
            text *= MIB // 2 // len(text) + 1
            self._ready = self._generator.randbytes(MIB // 2) + text[: MIB // 2]
        size = min(self._left, len(self._ready) if size < 0 else size)
        data, self._ready = self._ready[:size], self._ready[size:]
        self._left -= len(data)
        return data


def fat(scratch: str) -> list[imagebuilder.Layer]:
    """The layer of the image of one file."""
    tar = imagebuilder.TarBuilder("gzip", scratch)
    tar.directory("usr")
    return [_one_file(tar, 4_000 * MIB)]


def small(scratch: str) -> list[imagebuilder.Layer]:
    """The layer of the image for a quick run."""
    return [_one_file(tiny_files(scratch, "files", 20_000), 64 * MIB)]


def _one_file(tar: imagebuilder.TarBuilder, size: int) -> imagebuilder.Layer:
    content: IO[bytes] = HalfRandom(size)  # type: ignore[assignment]
    tar.stream("usr/large", content, size)
    return tar.finish()


KINDS = {"big": big, "many": many, "fat": fat, "small": small}


def image(kind: str, directory: str | None = None) -> str:
    """`oci:DIRECTORY:KIND` of an image, built where needed. Without DIRECTORY: in the cache."""
    cache = imagebuilder.cache_directory()
    name = "bench-image" if kind == "big" else f"bench-image-{kind}"
    directory = directory or os.path.join(cache, name)
    if not os.path.exists(os.path.join(directory, "index.json")):
        imagebuilder.say(f"building the benchmarks' image {kind} (some minutes) ...")
        with imagebuilder.new_directory(directory) as new:
            layers = KINDS[kind](new)
            writer = imagebuilder.LayoutWriter(new, kind)
            for layer in layers:
                writer.add_layer(layer)
            writer.finish()
    return f"oci:{directory}:{kind}"


def main() -> int:
    """Build where needed; print where it is."""
    arguments = sys.argv[1:] or ["big"]
    if len(arguments) > 2 or arguments[0] not in KINDS:
        print(__doc__, file=sys.stderr)
        return 2
    print(image(*arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
