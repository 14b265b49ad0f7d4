"""Builds OCI layouts and tar archives of any oddity, byte for byte as a test wants them.

`member` and its neighbours make parts of an archive as bytes; an archive is such parts and `END`.
`LayoutBuilder` packs archives into an image layout; every document can be bent on the way.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)

FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


def number(value: int, width: int) -> bytes:
    """A number field: octal if it fits, else base-256."""
    digits = b"%0*o" % (width - 1, value) if value >= 0 else b""
    if value >= 0 and len(digits) < width:
        return digits + b"\0"
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def checksummed(block: bytes) -> bytes:
    """The header block with its checksum set."""
    raw = bytearray(block)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def header(
    name: bytes,
    kind: bytes = FILE,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    magic: bytes = USTAR,
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    """A header block; names are cut to their fields."""
    return checksummed(
        name[:100].ljust(100, b"\0")
        + number(mode, 8)
        + number(uid, 8)
        + number(gid, 8)
        + number(size, 12)
        + number(mtime, 12)
        + bytes(8)
        + kind
        + link[:100].ljust(100, b"\0")
        + magic
        + bytes(64)
        + (number(device[0], 8) + number(device[1], 8) if magic != V7 else bytes(16))
        + prefix.ljust(155, b"\0")
        + bytes(12)
    )


def padded(data: bytes) -> bytes:
    """`data`, filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One record of a pax header, with its own length in front."""
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


Pax = dict[bytes, bytes] | Sequence[tuple[bytes, bytes]]


def pax_header(records: Pax, kind: bytes = b"x") -> bytes:
    """An extension header with `records`."""
    pairs = records.items() if isinstance(records, dict) else records
    data = b"".join(pax_record(key, value) for key, value in pairs)
    return header(b"PaxHeaders/x", kind, size=len(data)) + padded(data)


def long_header(kind: bytes, data: bytes) -> bytes:
    """GNU's long name (`L`) or long link (`K`)."""
    return header(b"././@LongLink", kind, size=len(data) + 1, magic=GNU) + padded(data + b"\0")


def member(
    name: bytes,
    data: bytes = b"",
    kind: bytes = FILE,
    *,
    pax: Pax = (),
    link: bytes = b"",
    magic: bytes = USTAR,
    **fields: Any,
) -> bytes:
    """A whole member. Names that do not fit become GNU long names."""
    parts = []
    if pax:
        parts.append(pax_header(pax))
    if len(name) > 100 and not fields.get("prefix"):
        parts.append(long_header(b"L", name))
    if len(link) > 100:
        parts.append(long_header(b"K", link))
    fields.setdefault("size", len(data))
    fields.setdefault("mode", 0o755 if kind == DIR else 0o777 if kind == SYMLINK else 0o644)
    parts.append(header(name, kind, link=link, magic=magic, **fields))
    parts.append(padded(data))
    return b"".join(parts)


def directory(name: bytes, **fields: Any) -> bytes:
    """A directory."""
    return member(name, kind=DIR, **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    """A symbolic link."""
    return member(name, kind=SYMLINK, link=target, **fields)


def hardlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    """A hard link."""
    return member(name, kind=HARDLINK, link=target, **fields)


def whiteout(name: bytes) -> bytes:
    """What deletes `name` of the layers below."""
    head, _, tail = name.rpartition(b"/")
    return member((head + b"/" if head else b"") + b".wh." + tail)


def opaque(name: bytes) -> bytes:
    """What hides all that the layers below have in the directory `name`."""
    return member(name + b"/.wh..wh..opq")


def archive(*parts: bytes) -> bytes:
    """An archive of `parts`, ended as it should be."""
    return b"".join(parts) + END


def base(*parts: bytes) -> bytes:
    """An archive with a directory /usr of its own metadata, and `parts`."""
    return archive(directory(b"usr", mtime=1_600_000_000), *parts)


def gzip(data: bytes) -> bytes:
    """One gzip member, the same bytes every time."""
    packer = zlib.compressobj(6, wbits=31)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    """One zstd frame."""
    return zstandard.ZstdCompressor(level=3).compress(data)


def sha256(data: bytes) -> str:
    """The OCI digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

Bend = Callable[[dict[str, Any]], Any]


@dataclass
class LayoutBuilder:
    """An image layout in `directory`."""

    directory: str
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        os.makedirs(os.path.join(self.directory, "blobs", "sha256"), exist_ok=True)
        with open(os.path.join(self.directory, "oci-layout"), "w", encoding="ascii") as file:
            file.write('{"imageLayoutVersion":"1.0.0"}')

    def blob_path(self, digest: str) -> str:
        """Where the blob `digest` is."""
        return os.path.join(self.directory, "blobs", *digest.split(":"))

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Store a blob; returns its descriptor."""
        digest = sha256(data)
        with open(self.blob_path(digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def document(self, value: Any, media_type: str, **more: Any) -> dict[str, Any]:
        """Store a JSON document, or `value` as it is if it is bytes."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.blob(data, media_type, **more)

    def layer(self, tar: bytes, packing: str = "gzip") -> dict[str, Any]:
        """Store a layer, packed by gzip, zstd or none."""
        packed = {"gzip": gzip, "zstd": zstd, "none": bytes}[packing](tar)
        suffix = "" if packing == "none" else "+" + packing
        return self.blob(packed, LAYER_TYPE + suffix)

    def image(
        self,
        *tars: bytes,
        ref: str | None = "latest",
        packing: str = "gzip",
        architecture: str = "amd64",
        layers: list[dict[str, Any]] | None = None,
        bend_config: Bend | None = None,
        bend_manifest: Bend | None = None,
        listed: bool = True,
    ) -> dict[str, Any]:
        """Add an image of the layers `tars`; returns the descriptor of its manifest.

        `layers` replaces the layers' descriptors. The bends change a document before it is stored,
        or return what to store in its place.
        """
        config: Any = {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
            "history": [],
        }
        config = (bend_config and bend_config(config)) or config
        if layers is None:
            layers = [self.layer(tar, packing) for tar in tars]
        manifest: Any = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.document(config, CONFIG_TYPE),
            "layers": layers,
        }
        manifest = (bend_manifest and bend_manifest(manifest)) or manifest
        descriptor = self.document(manifest, MANIFEST_TYPE)
        descriptor["platform"] = {"architecture": architecture, "os": "linux"}
        if ref is not None:
            descriptor["annotations"] = {"org.opencontainers.image.ref.name": ref}
        if listed:
            self.entries.append(descriptor)
            self.write_index()
        return descriptor

    def write_index(self) -> None:
        """Write index.json as the entries are now."""
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": self.entries}
        with open(os.path.join(self.directory, "index.json"), "w", encoding="utf-8") as file:
            json.dump(index, file)

    def source(self, ref: str = "latest") -> str:
        """What `cfs pull` and `cfsctl oci pull` call the image `ref`."""
        return f"oci:{self.directory}:{ref}"
