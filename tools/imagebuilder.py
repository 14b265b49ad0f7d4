"""Real OCI images out of Debian packages: what the demo and the benchmarks pull.

A root file system comes from mmdebstrap as one tar, is cut into layers entry by entry (the bytes of
an entry are copied as they are, extended headers included) and written as an OCI image layout. The
packages come from where this machine's own apt gets them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import zstandard

BLOCK = 512
CHUNK = 1 << 20
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}

TIME = 1_700_000_000  # of everything that is made new: the same packages give the same image

# What of this machine's apt settings decides whether a download works at all.
APT_SETTINGS = (
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
)


def cache_directory() -> str:
    """Where what was built is kept: $CFS_CACHE, else cfsfuse below the user's cache directory.

    Root's is in /var/cache: the demo and the tests drop to a user who cannot enter root's home.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.geteuid() == 0:
        base = "/var/cache"
    return os.environ.get("CFS_CACHE") or os.path.join(base, "cfsfuse")


@contextmanager
def new_directory(path: str) -> Iterator[str]:
    """A directory to fill that becomes `path` at the end, whole; abandoned when the body raises."""
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=".new-", dir=parent)
    try:
        yield scratch
        os.chmod(scratch, 0o755)  # noqa: S103 - an image for everyone to read
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.rename(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _codename() -> str:
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.strip().partition("=")
            if key == "VERSION_CODENAME":
                return value.strip('"')
    return "stable"


def _apt_sources(suite: str) -> str:
    """This machine's Debian sources as one-line entries; empty where it has none."""
    fields = ("REPO_URI", "RELEASE", "COMPONENT", "ORIGIN", "SIGNED_BY")
    form = "|".join(f"$({field})" for field in fields)
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = []
    for target in dict.fromkeys(listed.splitlines()):
        uri, release, component, origin, key = target.split("|")
        if origin in ("", "Debian") and release.partition("/")[0].startswith(suite):
            option = f"[signed-by={key}] " if os.path.isfile(key) else ""
            lines.append(f"deb {option}{uri} {release} {component}\n")
    return "".join(lines)


def _apt_settings() -> Iterator[str]:
    for name in APT_SETTINGS:
        command = ["apt-config", "shell", "VALUE", name]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if answer:  # VALUE='text'
            yield f'{name} "{answer.strip()[len("VALUE=") :].strip(chr(39))}"'


def debian_root(target: str, packages: Iterable[str], variant: str = "minbase") -> None:
    """Write the tar of a Debian root file system with `packages` to the file `target`."""
    suite = _codename()
    command = ["mmdebstrap", "--quiet", f"--variant={variant}", "--format=tar"]
    wanted = ",".join(packages)
    if wanted:
        command.append(f"--include={wanted}")
    command += [f"--aptopt={setting}" for setting in _apt_settings()]
    # Our own file stays open to us alone; mmdebstrap may run as another user inside a namespace.
    with open(target, "wb") as out:
        sources = _apt_sources(suite)
        command += [suite, "-"] + (["-"] if sources else [])
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(TIME)}
        subprocess.run(command, check=True, stdout=out, input=sources.encode(), env=environment)


@dataclass(slots=True)
class Layer:
    """A layer to be written: its uncompressed tar in a temporary file."""

    compression: str  # "gzip" or "zstd"
    tar: IO[bytes]

    @classmethod
    def new(cls, compression: str, scratch: str) -> Layer:
        """An empty layer; its file, in the directory `scratch`, has no name and goes by itself."""
        return cls(compression, tempfile.TemporaryFile(dir=scratch))


def split(
    root: str, choose: Callable[[str], int], compressions: Sequence[str], scratch: str
) -> list[Layer]:
    """Cut the tar `root` into layers: entry NAME goes to layer `choose(NAME)`.

    A hard link goes with its target, whatever `choose` says of it. Names have no leading `./`.
    """
    layers = [Layer.new(compression, scratch) for compression in compressions]
    with open(root, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
        entries = [
            (member.offset, member.offset_data, member.isreg() * member.size,
             member.linkname if member.islnk() else member.name)
            for member in tar
        ]  # fmt: skip
        for start, data, size, name in entries:
            layer = layers[choose(name.removeprefix("./"))]
            raw.seek(start)
            layer.tar.write(raw.read(data - start + -(-size // BLOCK) * BLOCK))
    for layer in layers:
        layer.tar.write(bytes(2 * BLOCK))
    return layers


class LayoutWriter:
    """Writes an OCI image layout with one image into a directory."""

    def __init__(self, directory: str, tag: str) -> None:
        self.directory = directory
        self.tag = tag
        self._layers: list[dict[str, object]] = []
        self._diff_ids: list[str] = []
        os.makedirs(os.path.join(directory, "blobs/sha256"))

    def add_layer(self, layer: Layer) -> None:
        """Compress `layer` into a blob."""
        layer.tar.seek(0)
        path = os.path.join(self.directory, "blobs/sha256/.layer")
        plain = hashlib.sha256()
        with open(path, "wb") as out:
            packed: IO[bytes]
            if layer.compression == "gzip":
                packed = gzip.GzipFile(
                    filename="", fileobj=out, mode="wb", compresslevel=6, mtime=0
                )  # type: ignore[assignment]
            else:
                packed = zstandard.ZstdCompressor(level=6).stream_writer(out, closefd=False)
            with packed:
                while chunk := layer.tar.read(CHUNK):
                    plain.update(chunk)
                    packed.write(chunk)
        with open(path, "rb") as blob:
            digest = hashlib.file_digest(blob, "sha256").hexdigest()
        os.rename(path, os.path.join(self.directory, "blobs/sha256", digest))
        size = os.stat(os.path.join(self.directory, "blobs/sha256", digest)).st_size
        media_type = MEDIA_TYPE + layer.compression
        self._layers.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": size})
        self._diff_ids.append(f"sha256:{plain.hexdigest()}")
        layer.tar.close()

    def finish(self, command: Sequence[str] = ("/bin/sh",)) -> None:
        """Write config, manifest and index: the layout is complete then."""
        config = {
            "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._document("application/vnd.oci.image.config.v1+json", config),
            "layers": self._layers,
        }
        entry = self._document("application/vnd.oci.image.manifest.v1+json", manifest)
        entry["annotations"] = {"org.opencontainers.image.ref.name": self.tag}
        index = {"schemaVersion": 2, "manifests": [entry]}
        self._file("index.json", index)
        self._file("oci-layout", {"imageLayoutVersion": "1.0.0"})

    def _document(self, media_type: str, value: object) -> dict[str, object]:
        data = json.dumps(value, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.directory, "blobs/sha256", digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def _file(self, name: str, value: object) -> None:
        with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
            json.dump(value, file)


class TarBuilder:
    """A layer made entry by entry; every entry belongs to root and has the same time."""

    def __init__(self, compression: str, scratch: str) -> None:
        self.layer = Layer.new(compression, scratch)
        self._tar = tarfile.TarFile(fileobj=self.layer.tar, mode="w", format=tarfile.PAX_FORMAT)

    def _entry(self, name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime = kind, mode, TIME
        return entry

    def directory(self, name: str, mode: int = 0o755) -> None:
        """A directory."""
        self._tar.addfile(self._entry(name, tarfile.DIRTYPE, mode))

    def file(self, name: str, data: bytes, mode: int = 0o644, *, uid: int = 0) -> None:
        """A regular file."""
        entry = self._entry(name, tarfile.REGTYPE, mode)
        entry.size, entry.uid, entry.gid = len(data), uid, uid
        self._tar.addfile(entry, io.BytesIO(data))

    def stream(self, name: str, content: IO[bytes], size: int) -> None:
        """A regular file of `size` bytes, read from `content`."""
        entry = self._entry(name, tarfile.REGTYPE, 0o644)
        entry.size = size
        self._tar.addfile(entry, content)

    def link(self, name: str, target: str, *, hard: bool = False) -> None:
        """A symbolic or hard link; `target` of a hard link is a path from the root."""
        entry = self._entry(name, tarfile.LNKTYPE if hard else tarfile.SYMTYPE, 0o777)
        entry.linkname = target
        self._tar.addfile(entry)

    def node(self, name: str, kind: bytes, mode: int, major: int = 0, minor: int = 0) -> None:
        """A device (tarfile.CHRTYPE, BLKTYPE) or a FIFO (FIFOTYPE)."""
        entry = self._entry(name, kind, mode)
        entry.devmajor, entry.devminor = major, minor
        self._tar.addfile(entry)

    def whiteout(self, name: str) -> None:
        """`name` of the layers below is gone."""
        head, tail = os.path.split(name)
        self.file(os.path.join(head, f".wh.{tail}"), b"")

    def opaque(self, name: str) -> None:
        """What the layers below have in the directory `name` is gone."""
        self.file(os.path.join(name, ".wh..wh..opq"), b"")

    def finish(self) -> Layer:
        """The complete layer."""
        self._tar.close()
        return self.layer


def say(text: str) -> None:
    """A line for whoever waits; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)
