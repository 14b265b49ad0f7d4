#!/usr/bin/env python3
"""Build the benchmarks' OCI image: tens of thousands of files, about a gigabyte, 3 gzip layers.

usage: build_image.py [DIRECTORY]     (default: a cache directory; prints oci:DIRECTORY:big)

Takes some minutes and a few gigabytes of scratch space the first time, nothing later.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import imagebuilder

TAG = "big"

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


def build(directory: str) -> None:
    """Build the image as the OCI layout `directory`."""
    with imagebuilder.new_directory(directory) as new:
        root = os.path.join(new, "root.tar")
        imagebuilder.say("building the benchmarks' image from Debian packages (some minutes) ...")
        imagebuilder.debian_root(root, PACKAGES)
        layers = imagebuilder.split(root, layer_of, ["gzip"] * 3, new)
        os.unlink(root)
        writer = imagebuilder.LayoutWriter(new, TAG)
        for layer in layers:
            writer.add_layer(layer)
        writer.finish()


def main() -> int:
    """Build where needed; print where it is."""
    default = os.path.join(imagebuilder.cache_directory(), "bench-image")
    directory = sys.argv[1] if len(sys.argv) > 1 else default
    if not os.path.exists(os.path.join(directory, "index.json")):
        build(directory)
    print(f"oci:{directory}:{TAG}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
