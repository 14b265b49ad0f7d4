#!/usr/bin/env python3
"""Build the demo's OCI image: a Debian base system in three layers.

usage: build_demo_image.py [DIRECTORY]     (default: a cache directory; prints oci:DIRECTORY:demo)

- layer 1, gzip: the base system
- layer 2, zstd: its /usr/share
- layer 3, gzip: deletes files and directories of the layers below, adds hard links within and
  across layers, device nodes, a FIFO, a setuid program

Built once (about a minute, one download of Debian packages), then taken from the cache.
"""

from __future__ import annotations

import os
import sys
import tarfile

import imagebuilder

TAG = "demo"
PACKAGES = ("iputils-ping",)  # ping has a file capability
REVISION = "1"  # of what this script makes; a cached image of another one is built anew


def layer_of(name: str) -> int:
    """The layer that path `name` of the base system goes to."""
    return 1 if name.startswith("usr/share/") else 0


def changes(names: set[str], scratch: str) -> imagebuilder.Layer:
    """The third layer; `names` are the paths of the layers below, without a trailing slash."""
    tar = imagebuilder.TarBuilder("gzip", scratch)
    # What an image build does to save space.
    for name in ("usr/share/doc/apt", "usr/share/bug", "etc/motd", "etc/issue.net"):
        if name in names:
            tar.whiteout(name)
    if "usr/share/locale" in names:
        tar.directory("usr/share/locale")
        tar.opaque("usr/share/locale")
        tar.file("usr/share/locale/README", b"Locales were removed from this image.\n")
    tar.directory("opt/demo")
    tar.file("opt/demo/hello", b"#!/bin/sh\necho hello from the image\n", 0o755)
    tar.link("opt/demo/hello-again", "opt/demo/hello", hard=True)
    tar.link("opt/demo/cat", "usr/bin/cat", hard=True)
    tar.link("opt/demo/latest", "hello")
    tar.file("opt/demo/as-root", b"#!/bin/sh\nexec id\n", 0o4755)
    tar.file("opt/demo/private", b"only its owner reads this\n", 0o600, uid=1234)
    tar.directory("opt/demo/dev")
    tar.node("opt/demo/dev/null", tarfile.CHRTYPE, 0o666, 1, 3)
    tar.node("opt/demo/dev/sda", tarfile.BLKTYPE, 0o660, 8, 0)
    tar.node("opt/demo/dev/initctl", tarfile.FIFOTYPE, 0o600)
    tar.directory("opt/demo/drop", 0o1777)
    return tar.finish()


def build(directory: str) -> None:
    """Build the image as the OCI layout `directory`."""
    with imagebuilder.new_directory(directory) as new:
        root = os.path.join(new, "root.tar")
        imagebuilder.say("building the demo's image from Debian packages (about a minute) ...")
        imagebuilder.debian_root(root, PACKAGES)
        with tarfile.open(root, "r:") as tar:
            names = {name.removeprefix("./").rstrip("/") for name in tar.getnames()}
        layers = imagebuilder.split(root, layer_of, ("gzip", "zstd"), new)
        os.unlink(root)
        writer = imagebuilder.LayoutWriter(new, TAG)
        for layer in (*layers, changes(names, new)):
            writer.add_layer(layer)
        writer.finish()


def main() -> int:
    """Build where needed; print where it is."""
    default = os.path.join(imagebuilder.cache_directory(), f"demo-image-{REVISION}")
    directory = sys.argv[1] if len(sys.argv) > 1 else default
    if not os.path.exists(os.path.join(directory, "index.json")):
        build(directory)
    print(f"oci:{directory}:{TAG}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
