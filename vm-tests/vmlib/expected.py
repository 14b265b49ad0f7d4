"""What a mount of an image must show, read out of its layers with Python's tarfile.

Shares no code with what is tested. Knows what the demo's image has: whiteouts, opaque directories,
hard links within and across layers, devices, capabilities; the rules are those of composefs-rs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from typing import Any

import zstandard

Entry = dict[str, Any]
TYPES = {
    tarfile.DIRTYPE: 0o040000,
    tarfile.SYMTYPE: 0o120000,
    tarfile.CHRTYPE: 0o020000,
    tarfile.BLKTYPE: 0o060000,
    tarfile.FIFOTYPE: 0o010000,
}
KEPT_XATTRS = ("security.capability",)


def listing(layout: str) -> bytes:
    """JSON: path (`.`, `./etc`) -> what tests/kernel/tree_walker.py prints of it.

    For an OCI layout.
    """
    entries: dict[str, Entry] = {".": {}}
    for blob in _layers(layout):
        with tarfile.open(fileobj=io.BytesIO(blob), mode="r:") as tar:
            for member in tar:
                _apply(entries, tar, member)
    usr = entries["./usr"]
    entries["."] = {**usr, "ino": "."}
    _empty(entries, "./run")
    entries["./run"]["mtime"] = usr["mtime"]
    _count_links(entries)
    return json.dumps(entries).encode()


def _layers(layout: str) -> list[bytes]:
    def blob(descriptor: Any) -> bytes:
        path = os.path.join(layout, "blobs", *descriptor["digest"].split(":"))
        with open(path, "rb") as file:
            return file.read()

    with open(os.path.join(layout, "index.json"), encoding="utf-8") as file:
        manifest = json.loads(blob(json.load(file)["manifests"][0]))
    layers = []
    for descriptor in manifest["layers"]:
        data = blob(descriptor)
        if descriptor["mediaType"].endswith("gzip"):
            layers.append(gzip.decompress(data))
        else:
            layers.append(zstandard.ZstdDecompressor().stream_reader(data).read())
    return layers


def _apply(entries: dict[str, Entry], tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = member.name.removeprefix("./").rstrip("/")
    if name in ("", "."):
        return
    path = f"./{name}"
    head, _, tail = path.rpartition("/")
    if tail == ".wh..wh..opq":
        _empty(entries, head)
    elif tail.startswith(".wh."):
        gone = f"{head}/{tail.removeprefix('.wh.')}"
        _empty(entries, gone)
        entries.pop(gone, None)
    elif member.islnk():
        entries[path] = entries["./" + member.linkname.removeprefix("./")]
    else:
        if not member.isdir():
            _empty(entries, path)
        entries[path] = _entry(tar, member, path)


def _empty(entries: dict[str, Entry], directory: str) -> None:
    for path in [path for path in entries if path.startswith(directory + "/")]:
        del entries[path]


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Entry:
    device = member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE)
    entry: Entry = {
        "mode": oct(TYPES.get(member.type, 0o100000) | member.mode),
        "uid": member.uid,
        "gid": member.gid,
        "size": 0,
        "rdev": [member.devmajor, member.devminor] if device else [0, 0],
        "mtime": int(member.mtime) * 10**9,
        "xattrs": {
            key: member.pax_headers[f"SCHILY.xattr.{key}"]
            .encode("utf-8", "surrogateescape")
            .decode("latin-1")
            for key in KEPT_XATTRS
            if f"SCHILY.xattr.{key}" in member.pax_headers
        },
        "ino": path,
    }
    if member.issym():
        entry |= {"target": member.linkname, "size": len(member.linkname)}
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        entry |= {"size": member.size, "sha256": hashlib.sha256(content.read()).hexdigest()}
    return entry


def _count_links(entries: dict[str, Entry]) -> None:
    names: dict[int, list[str]] = {}
    for path, entry in entries.items():
        names.setdefault(id(entry), []).append(path)
    for paths in names.values():
        entries[paths[0]]["nlink"] = len(paths)
        entries[paths[0]]["ino"] = paths  # which of them is seen first is the reader's choice
    directories = [path for path, entry in entries.items() if entry["mode"].startswith("0o4")]
    for path in directories:
        entries[path]["nlink"] = 2
        del entries[path]["size"]  # a file system's own business
    for path in directories:
        if path != ".":
            entries[path.rpartition("/")[0]]["nlink"] += 1
