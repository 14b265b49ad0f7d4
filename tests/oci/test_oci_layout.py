"""References, documents, image layouts and blobs: what is found, and what is refused."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import zstandard

from cfsrepo.errors import DigestMismatchError, InputError, LimitError, NotFoundError, UsageError
from cfsrepo.oci import decompress as decompress_module
from cfsrepo.oci import documents
from cfsrepo.oci.decompress import CHUNK, decompress
from cfsrepo.oci.documents import Compression, Descriptor, Platform
from cfsrepo.oci.transports import platforms
from cfsrepo.oci.transports.blob import read_document
from cfsrepo.oci.transports.imagelayout import Layout
from cfsrepo.oci.transports.platforms import choose, own_platform
from cfsrepo.oci.transports.reference import LayoutReference, parse_reference
from cfsrepo.oci.zstdframes import FrameWalk
from tests.oci.oci_builder import (
    CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    LayoutBuilder,
    base,
    gzip,
    sha256,
    zstd,
)

HEX = "a" * 64
DIGEST = "sha256:" + HEX


@pytest.fixture
def builder(tmp_path: object) -> LayoutBuilder:
    return LayoutBuilder(f"{tmp_path}/layout")


# -- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "directory", "ref"),
    [
        ("oci:dir", "dir", None),
        ("oci:dir:tag", "dir", "tag"),
        ("oci:/no/dir:tag", "/no/dir", "tag"),
        ("oci:/no:such/dir", "/no:such/dir", None),
        ("oci:/no:such/dir:tag", "/no:such/dir", "tag"),
        ("oci:./dir:v1.0", "./dir", "v1.0"),
    ],
)
def test_references(text: str, directory: str, ref: str | None) -> None:
    assert parse_reference(text) == LayoutReference(directory, ref)


def test_an_existing_directory_decides(tmp_path: object) -> None:
    os.mkdir(f"{tmp_path}/a")
    os.mkdir(f"{tmp_path}/a:b")
    assert parse_reference(f"oci:{tmp_path}/a:b").ref is None
    assert parse_reference(f"oci:{tmp_path}/a:b:c").directory == f"{tmp_path}/a:b"
    found = parse_reference(f"oci:{tmp_path}/a:host.example/name:tag")
    assert found == LayoutReference(f"{tmp_path}/a", "host.example/name:tag")
    assert parse_reference(f"oci:{tmp_path}/a:sha256:{HEX}").ref == DIGEST


@pytest.mark.parametrize("text", ["DIR", "oci:", "oci::tag", "oci:dir:", "oci:a\0b"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("directory", "ref", "name"),
    [
        ("/tmp/debian", None, "debian:latest"),
        ("/tmp/debian/", "12", "debian:12"),
        ("/", None, "image:latest"),
        ("/tmp/x/..", None, "tmp:latest"),
        ("/tmp/x", "host.example/debian:12", "host.example/debian:12"),
    ],
)
def test_default_names(directory: str, ref: str | None, name: str) -> None:
    assert LayoutReference(directory, ref).default_name() == name


# -- documents ------------------------------------------------------------------------------------


def manifest(**changes: Any) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "config": {"mediaType": CONFIG_TYPE, "digest": DIGEST, "size": 1},
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": DIGEST,
                "size": 2,
            }
        ],
    }
    document.update(changes)
    return json.dumps(document).encode()


def layer(**changes: Any) -> list[dict[str, Any]]:
    return [{**json.loads(manifest())["layers"][0], **changes}]


def test_a_manifest() -> None:
    found = documents.parse_manifest(manifest(), "m")
    assert found.config == Descriptor(CONFIG_TYPE, DIGEST, 1)
    assert [item.size for item in found.layers] == [2]


def test_docker_types() -> None:
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": DIGEST,
        "size": 1,
    }
    layers = layer(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip")
    found = documents.parse_manifest(manifest(config=config, layers=layers), "m")
    assert documents.LAYER_TYPES[found.layers[0].media_type] is Compression.GZIP


BAD_MANIFESTS = {
    "no JSON": (b"{", "no JSON"),
    "no UTF-8": (b'{"a": "\xff"}', "no JSON"),
    "no object": (b"[]", "no JSON object"),
    "nested": (b"[" * 1_000_000, "nested too deeply"),
    "nested objects": (b'{"a":' * 500_000, "nested too deeply"),
    "a number without end": (b'{"schemaVersion": ' + b"9" * 10_000 + b"}", "no JSON|schema"),
    "schema 1": (manifest(schemaVersion=1), "schema version"),
    "no config": (manifest(config=None), "no descriptor"),
    "artifact": (
        manifest(config={"mediaType": "application/x", "digest": DIGEST, "size": 1}),
        "unknown type of the configuration",
    ),
    "layers no list": (manifest(layers={}), "layers is no list"),
    "layer no object": (manifest(layers=["x"]), "no descriptor"),
    "unknown layer": (manifest(layers=layer(mediaType="text/plain")), "unknown type of layer"),
    "layer without type": (manifest(layers=layer(mediaType="")), "unknown type of layer"),
    "type no string": (manifest(layers=layer(mediaType=1)), "mediaType is no string"),
    "size negative": (manifest(layers=layer(size=-1)), "without a size"),
    "size fraction": (manifest(layers=layer(size=1.5)), "without a size"),
    "size true": (manifest(layers=layer(size=True)), "without a size"),
    "size text": (manifest(layers=layer(size="1")), "without a size"),
    "size huge": (manifest(layers=layer(size=2**63)), "without a size"),
    "digest md5": (manifest(layers=layer(digest="md5:" + "a" * 32)), "no digest"),
    "digest short": (manifest(layers=layer(digest="sha256:aa")), "no digest"),
    "digest of capitals": (manifest(layers=layer(digest="sha256:" + "A" * 64)), "no digest"),
    "digest path": (manifest(layers=layer(digest="sha256:../../../../etc/passwd")), "no digest"),
    "digest with a newline": (manifest(layers=layer(digest=DIGEST + "\n")), "no digest"),
    "digest number": (manifest(layers=layer(digest=5)), "no digest"),
    "annotations no object": (manifest(layers=layer(annotations=[])), None),
    "annotations text": (manifest(layers=layer(annotations="x")), "annotations"),
    "platform text": (manifest(layers=layer(platform="x")), "platform"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifests(case: str) -> None:
    data, message = BAD_MANIFESTS[case]
    if message is None:
        documents.parse_manifest(data, "m")
        return
    with pytest.raises(InputError, match=message) as caught:
        documents.parse_manifest(data, "the manifest")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the manifest")


def test_documents_are_bounded() -> None:
    with pytest.raises(LimitError, match="over"):
        documents.parse_index(b" " * (documents.DOCUMENT_MAX + 1), "i")
    with pytest.raises(LimitError, match="layers"):
        documents.parse_manifest(manifest(layers=layer() * (documents.LAYERS_MAX + 1)), "m")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "rootfs"),
        ({"rootfs": []}, "rootfs"),
        ({"rootfs": {"type": "tar", "diff_ids": []}}, "rootfs"),
        ({"rootfs": {"type": "layers"}}, "diff_ids is no list"),
        ({"rootfs": {"type": "layers", "diff_ids": [1]}}, "no digest"),
        ({"rootfs": {"type": "layers", "diff_ids": []}, "os": 1}, "os is no string"),
    ],
)
def test_bad_configurations(config: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        documents.parse_config(json.dumps(config).encode(), "c")


# -- layouts --------------------------------------------------------------------------------------


def image(builder: LayoutBuilder, ref: str | None) -> Descriptor:
    """The image that is pulled for `oci:DIR:REF`."""
    with Layout(builder.directory, ref) as layout:
        return choose(layout)


def test_find_by_name_and_digest(builder: LayoutBuilder) -> None:
    first = builder.image(base(), ref="first")
    second = builder.image(base(), ref="second", bend_config=lambda config: {**config, "x": 1})
    assert image(builder, "first").digest == first["digest"]
    assert image(builder, "second").digest == second["digest"]
    assert image(builder, second["digest"]).digest == second["digest"]
    with pytest.raises(NotFoundError, match="several images") as caught:
        image(builder, None)
    assert caught.value.hint is not None
    assert "first, second" in caught.value.hint
    with pytest.raises(NotFoundError, match="no image third"):
        image(builder, "third")


def test_the_only_image_needs_no_name(builder: LayoutBuilder) -> None:
    only = builder.image(base(), ref=None)
    assert image(builder, None).digest == only["digest"]


def test_own_platform_of_several(builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {
        name: builder.image(base(), architecture=name)["digest"]
        for name in ("s390x", "amd64", "arm64")
    }
    for own in images:
        monkeypatch.setattr(platforms, "own_platform", lambda own=own: Platform("linux", own))
        assert image(builder, "latest").digest == images[own]
    monkeypatch.setattr(platforms, "own_platform", lambda: Platform("linux", "loong64"))
    with pytest.raises(NotFoundError, match="no image for linux/loong64") as caught:
        image(builder, "latest")
    assert caught.value.hint is not None
    assert "linux/s390x" in caught.value.hint


def test_platform_from_the_configuration(
    builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {
        name: builder.image(base(), architecture=name)["digest"] for name in ("s390x", "arm64")
    }
    for entry in builder.entries:
        del entry["platform"]
    builder.write_index()
    monkeypatch.setattr(platforms, "own_platform", lambda: Platform("linux", "arm64"))
    assert image(builder, None).digest == images["arm64"]


def test_variants(builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for variant in ("v6", "v7"):
        builder.image(
            base(),
            architecture="arm",
            bend_config=lambda config, variant=variant: {**config, "variant": variant},
        )
        builder.entries[-1]["platform"]["variant"] = variant
        digests.append(builder.entries[-1]["digest"])
    builder.write_index()
    monkeypatch.setattr(platforms, "own_platform", lambda: Platform("linux", "arm", "v7"))
    assert image(builder, "latest").digest == digests[1]


def test_nested_index(builder: LayoutBuilder) -> None:
    inner = [
        builder.image(base(), architecture=name, listed=False)
        for name in ("s390x", own_platform().architecture)
    ]
    index = builder.document({"schemaVersion": 2, "manifests": inner}, INDEX_TYPE)
    outer = builder.document({"schemaVersion": 2, "manifests": [index]}, INDEX_TYPE)
    builder.entries.append({**outer, "annotations": {documents.REF_NAME: "deep"}})
    builder.write_index()
    assert image(builder, "deep").digest == inner[1]["digest"]


def test_indexes_without_end_are_refused(builder: LayoutBuilder) -> None:
    entry = builder.image(base(), listed=False)
    for _ in range(10):
        entry = builder.document({"schemaVersion": 2, "manifests": [entry]}, INDEX_TYPE)
    builder.entries.append(entry)
    builder.write_index()
    with pytest.raises(LimitError, match="too many indexes"):
        image(builder, None)


def test_unknown_type_in_the_index(builder: LayoutBuilder) -> None:
    builder.entries.append(builder.blob(b"x", "text/plain"))
    builder.write_index()
    with pytest.raises(InputError, match="unknown type text/plain"):
        image(builder, None)


def test_what_is_no_layout(tmp_path: object) -> None:
    with pytest.raises(NotFoundError, match="no such directory"):
        Layout(f"{tmp_path}/nothing")
    with pytest.raises(NotFoundError, match="no OCI image layout"):
        Layout(str(tmp_path))
    with open(f"{tmp_path}/index.json", "w") as file:
        file.write("nonsense")
    with pytest.raises(InputError, match="no JSON"):
        Layout(str(tmp_path))
    os.unlink(f"{tmp_path}/index.json")
    os.mkfifo(f"{tmp_path}/index.json")
    with pytest.raises(InputError, match="no regular file"):
        Layout(str(tmp_path))


def test_blobs_are_checked(builder: LayoutBuilder) -> None:
    entry = builder.image(base())
    descriptor = Descriptor(MANIFEST_TYPE, entry["digest"], entry["size"])
    path = builder.blob_path(entry["digest"])
    with Layout(builder.directory) as found:
        data = read_document(found, descriptor)
        assert sha256(data) == entry["digest"]
        with open(path, "r+b") as file:
            file.write(b"X")
        with pytest.raises(DigestMismatchError, match="its digest is sha256:"):
            read_document(found, descriptor)
        os.truncate(path, entry["size"] - 1)
        with pytest.raises(InputError, match=r"bytes, not \d+"):
            read_document(found, descriptor)
        os.unlink(path)
        with pytest.raises(NotFoundError, match="is missing"):
            read_document(found, descriptor)


def test_big_documents_are_refused(builder: LayoutBuilder) -> None:
    found = builder.blob(b" " * (documents.DOCUMENT_MAX + 1), MANIFEST_TYPE)
    builder.write_index()
    descriptor = Descriptor(MANIFEST_TYPE, found["digest"], found["size"])
    with Layout(builder.directory) as source:
        with pytest.raises(LimitError, match="a document of"):
            read_document(source, descriptor)


# -- unpacking ------------------------------------------------------------------------------------


class Bytes:
    """A source of bytes that come a few at a time."""

    name = "blob"

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self.data = data
        self.most = most

    def read(self, count: int, /) -> bytes:
        part = self.data[: min(count, self.most)]
        self.data = self.data[len(part) :]
        return part


def unpack(data: bytes, compression: Compression, most: int = 1 << 30) -> bytes:
    return b"".join(decompress(Bytes(data, most), compression))


SAMPLE = bytes(range(256)) * 5000


@pytest.mark.parametrize("most", [1, 10, 1000, 1 << 30])
@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (SAMPLE[:3000], Compression.NONE),
        (gzip(SAMPLE[:3000]), Compression.GZIP),
        (gzip(b""), Compression.GZIP),
        (gzip(SAMPLE[:1000]) + gzip(b"") + gzip(SAMPLE[1000:3000]), Compression.GZIP),
        (zstd(SAMPLE[:3000]), Compression.ZSTD),
        (zstd(SAMPLE[:1000]) + zstd(SAMPLE[1000:3000]), Compression.ZSTD),
        (
            zstd(SAMPLE[:1000]) + b"\x50\x2a\x4d\x18\x05\0\0\0skip!" + zstd(SAMPLE[1000:3000]),
            Compression.ZSTD,
        ),
    ],
)
def test_unpacking(data: bytes, compression: Compression, most: int) -> None:
    assert unpack(data, compression, most) in (SAMPLE[:3000], b"")


@pytest.mark.parametrize("most", [1, 10, 1000, 1 << 30])
def test_unpacking_without_isal(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress_module, "_NEW_MEMBER", decompress_module._ZlibMember)
    members = gzip(SAMPLE[:1000]) + gzip(b"") + gzip(SAMPLE[1000:3000])
    assert unpack(members, Compression.GZIP, most) == SAMPLE[:3000]
    for damaged in (members[:-1], members + b"garbage", members[:-8] + bytes(8)):
        with pytest.raises(InputError, match=r"blob: .*gzip"):
            unpack(damaged, Compression.GZIP, most)
    sizes = [len(chunk) for chunk in decompress(Bytes(gzip(bytes(50 << 20))), Compression.GZIP)]
    assert sum(sizes) == 50 << 20
    assert max(sizes) <= CHUNK


@pytest.mark.parametrize(("pack", "compression"), [(gzip, "gzip"), (zstd, "zstd")])
def test_bombs_come_in_small_pieces(pack: Any, compression: str) -> None:
    bomb = pack(bytes(50 << 20))
    assert len(bomb) < 100_000
    sizes = [len(chunk) for chunk in decompress(Bytes(bomb), Compression(compression))]
    assert sum(sizes) == 50 << 20
    assert max(sizes) <= CHUNK


@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (gzip(SAMPLE)[:-1], Compression.GZIP),
        (gzip(SAMPLE)[:100], Compression.GZIP),
        (gzip(SAMPLE)[:5], Compression.GZIP),
        (gzip(SAMPLE) + b"garbage after it", Compression.GZIP),
        (gzip(SAMPLE)[:-8] + bytes(8), Compression.GZIP),
        (b"no gzip at all, but long enough", Compression.GZIP),
        (zstd(SAMPLE), Compression.GZIP),
        (zstd(SAMPLE) + b"garbage after it", Compression.ZSTD),
        (b"no zstd at all, but long enough", Compression.ZSTD),
        (zstd(SAMPLE)[:-20] + bytes(20), Compression.ZSTD),
        (gzip(SAMPLE), Compression.ZSTD),
        (zstd(SAMPLE)[:-1], Compression.ZSTD),
        (zstd(SAMPLE)[:3], Compression.ZSTD),
        (zstd(SAMPLE) + zstd(b"x")[:-1], Compression.ZSTD),
        (zstd(SAMPLE) + b"\x50\x2a\x4d\x18\x05\0\0\0ski", Compression.ZSTD),
    ],
)
def test_damaged_streams(data: bytes, compression: Compression) -> None:
    with pytest.raises(InputError, match=f"blob: .*{compression}"):
        unpack(data, compression)


@pytest.mark.parametrize(
    "settings",
    [{}, {"write_checksum": True}, {"write_content_size": False}, {"level": 19}, {"level": -5}],
)
@pytest.mark.parametrize("content", [b"", b"x" * 400_000, os.urandom(300_000), SAMPLE])
@pytest.mark.parametrize("piece", [1, 3, 1000, 1 << 20])
def test_where_frames_end(settings: dict[str, Any], content: bytes, piece: int) -> None:
    if piece < 1000:
        content = content[:5000]
    frame = zstandard.ZstdCompressor(**settings).compress(content)
    walk = FrameWalk()
    ends = []
    data = frame + frame
    for at in range(0, len(data), piece):
        walk.feed(data[at : at + piece])
        if walk.complete:
            ends.append(min(at + piece, len(data)))
    assert ends[-1] == len(data)
    if piece == 1:
        assert ends == [len(frame), len(data)]
    for cut in (1, 2, 5):
        walk = FrameWalk()
        walk.feed(frame[:-cut])
        assert not walk.complete
