"""A guest kernel out of a Debian package: the bare vmlinux, and the modules a test needs.

Without hardware virtualisation, booting the uncompressed kernel (by its PVH entry) saves the guest
the work of unpacking itself: a second of each boot.
"""

from __future__ import annotations

import glob
import gzip
import lzma
import os
import re
import shutil
import struct
from collections.abc import Callable

import zstandard

from vmlib import debian

# Everything else a test needs is built into Debian's cloud kernels.
MODULES = ("virtio_blk", "loop", "erofs", "overlay")

PACKAGE = "linux-image-cloud-amd64"


def _zstd(data: bytes) -> bytes:
    # The frame ends before the data does: no decompressor of whole frames takes that.
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


MAGICS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b\x08": gzip.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def extract(source: debian.PackageSource, package: str, directory: str) -> None:
    """Make `directory` with `vmlinux` and `modules/NN-NAME.ko`, numbered in load order."""
    unpacked = os.path.join(directory, "unpacked")
    os.makedirs(unpacked)
    resolved = [name for name in source.resolve([package]) if name.startswith("linux-")]
    debs = source.download(resolved)
    debian.unpack(debs, unpacked, "*vmlinuz*", "*/kernel/*", "*modules.builtin")
    (image,) = (
        glob.glob(f"{unpacked}/boot/vmlinuz-*")
        + glob.glob(f"{unpacked}/**/vmlinuz", recursive=True)
    )[:1]
    with open(image, "rb") as file:
        kernel = uncompressed(file.read())
    with open(os.path.join(directory, "vmlinux"), "wb") as file:
        file.write(kernel)
    _collect_modules(unpacked, os.path.join(directory, "modules"))
    shutil.rmtree(unpacked)


def uncompressed(image: bytes) -> bytes:
    """The ELF file inside a bzImage (Documentation/arch/x86/boot.rst)."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    for magic, decompress in MAGICS.items():
        if payload.startswith(magic):
            # The last four bytes are the uncompressed size, no part of the stream.
            return decompress(payload if magic.startswith(b"\x28") else payload[:-4])
    raise SystemExit(f"unknown compression of the kernel: {payload[:8].hex()}")


def _collect_modules(unpacked: str, directory: str) -> None:
    """Copy `MODULES` and what they depend on, dependencies first."""
    os.mkdir(directory)
    files = {}
    for path in glob.glob(f"{unpacked}/**/*.ko*", recursive=True):
        files[os.path.basename(path).partition(".")[0].replace("-", "_")] = path
    loaded: list[str] = []

    def need(name: str) -> None:
        if name in loaded or name not in files:  # not there: built in
            return
        data = _module(files[name])
        match = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in match[1].decode().split(",") if match else []:
            need(other.replace("-", "_"))
        with open(os.path.join(directory, f"{len(loaded):02}-{name}.ko"), "wb") as out:
            out.write(data)
        loaded.append(name)

    for name in MODULES:
        need(name)


def _module(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    for magic, decompress in MAGICS.items():
        if data.startswith(magic):
            return decompress(data)
    return data
