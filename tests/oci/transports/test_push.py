"""Pushing and copying: what arrives is what was pulled, and others read it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from cfsrepo.errors import RepositoryError, UsageError
from cfsrepo.oci.copy import copy, push
from cfsrepo.oci.importer import pull
from cfsrepo.oci.repositorysource import RepositorySource
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import pieces
from cfsrepo.oci.transports.open import open_source
from cfsrepo.oci.transports.platforms import choose
from cfsrepo.oci.transports.reference import parse_reference
from cfsrepo.store.repository import Repository
from tests.conftest import Peer
from tests.oci.oci_builder import (
    END,
    GNU,
    INDEX_TYPE,
    USTAR,
    V7,
    LayoutBuilder,
    archive,
    base,
    directory,
    hardlink,
    member,
    symlink,
)
from tests.oci.transports.registry_servers import docker_registry, go_registry, program

PLAIN = Access(tls_verify=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    tars = (
        base(member(b"big", os.urandom(9_000_000)), member(b"small", b"small" * 20)),
        archive(member(b"upper", b"upper" * 1000)),
    )
    builder.image(*tars, ref="plain", packing="none")
    builder.image(*tars, ref="packed")
    return builder


def digest(layout: LayoutBuilder, ref: str) -> str:
    [entry] = [e for e in layout.entries if ref in e["annotations"].values()]
    found: str = entry["digest"]
    return found


@pytest.fixture
def repo(tmp_path: Path, layout: LayoutBuilder) -> Repository:
    found = Repository.init(f"{tmp_path}/repo")
    pull(found, layout.source("plain"), "plain")
    pull(found, layout.source("packed"), "packed")
    return found


def image_of(reference: str) -> str:
    """The manifest's digest of what a reference means; all its blobs are read and checked."""
    with open_source(parse_reference(reference), PLAIN) as source:
        descriptor = choose(source)
        document = json.loads(source.read_manifest(descriptor))
        assert document["layers"]
        return descriptor.digest


@pytest.mark.parametrize("kind", ["oci:{}/out:1", "oci-archive:{}/out.tar:1"])
def test_byte_for_byte(
    kind: str, repo: Repository, layout: LayoutBuilder, tmp_path: Path, peer: Peer
) -> None:
    target = kind.format(tmp_path)
    done = push(repo, "plain", parse_reference(target))
    assert done.manifest_digest == digest(layout, "plain") == image_of(target)
    assert done.sent == 3
    inspected = subprocess.run(
        [peer("skopeo"), "inspect", target], capture_output=True, check=True, text=True
    )
    assert json.loads(inspected.stdout)["Digest"] == done.manifest_digest
    with Repository.init(f"{tmp_path}/again") as again:
        assert pull(again, target).image_id == pull(repo, layout.source("plain"), "x").image_id


def test_a_layout_keeps_its_other_images(
    repo: Repository, layout: LayoutBuilder, tmp_path: Path
) -> None:
    target = parse_reference(f"oci:{tmp_path}/out:first")
    push(repo, "plain", target)
    again = push(repo, "plain", parse_reference(f"oci:{tmp_path}/out:second"))
    assert again.sent == 0
    push(repo, "plain", target)
    with open(f"{tmp_path}/out/index.json", "rb") as file:
        names = [list(item["annotations"].values()) for item in json.load(file)["manifests"]]
    assert sorted(names) == [["first"], ["second"]]


def test_docker_archive(repo: Repository, tmp_path: Path, peer: Peer) -> None:
    target = f"docker-archive:{tmp_path}/out.tar:some/image:1"
    push(repo, "packed", parse_reference(target))
    subprocess.run(
        [peer("skopeo"), "copy", target, f"oci:{tmp_path}/copied:1"],
        check=True,
        capture_output=True,
    )
    with Repository.init(f"{tmp_path}/again") as again:
        ours = pull(again, target).image_id
        assert pull(again, f"oci:{tmp_path}/copied:1").image_id == ours
    with tarfile.open(f"{tmp_path}/out.tar") as found:
        assert all((item.uid, item.mtime) == (0, 0) for item in found)
    with pytest.raises(UsageError, match="exists already"):
        push(repo, "packed", parse_reference(target))


def test_packed_layers_that_were_not_kept(repo: Repository, tmp_path: Path) -> None:
    target = parse_reference(f"oci:{tmp_path}/out:1")
    with pytest.raises(RepositoryError, match="were not kept") as caught:
        push(repo, "packed", target)
    assert "--recompress" in str(caught.value.hint)
    assert not os.path.exists(f"{tmp_path}/out/index.json")
    first = push(repo, "packed", target, recompress=True)
    second = push(repo, "packed", parse_reference(f"oci:{tmp_path}/two:1"), recompress=True)
    assert first.manifest_digest == second.manifest_digest
    with Repository.init(f"{tmp_path}/again") as again:
        assert (
            pull(again, f"oci:{tmp_path}/out").image_id
            == pull(repo, f"oci:{tmp_path}/two", "x").image_id
        )


@pytest.mark.interop
@pytest.mark.parametrize("server", [docker_registry, go_registry], ids=["docker", "go"])
def test_registries(
    server: object, repo: Repository, layout: LayoutBuilder, tmp_path: Path, peer: Peer
) -> None:
    begun = docker_registry(str(tmp_path)) if server is docker_registry else go_registry()
    with begun as registry:
        target = f"docker://{registry.host}/some/image:1"
        done = push(repo, "plain", parse_reference(target), access=PLAIN)
        assert (done.manifest_digest, done.sent) == (digest(layout, "plain"), 3)
        assert push(repo, "plain", parse_reference(target), access=PLAIN).sent == 0
        skopeo = [peer("skopeo"), "copy", "--preserve-digests", "--src-tls-verify=false", target]
        subprocess.run([*skopeo, f"oci:{tmp_path}/skopeo:1"], check=True, capture_output=True)
        assert image_of(f"oci:{tmp_path}/skopeo:1") == done.manifest_digest
        crane = [program("crane"), "digest", "--insecure", target.removeprefix("docker://")]
        found = subprocess.run(crane, check=True, capture_output=True, text=True).stdout
        assert found.strip() == done.manifest_digest
        # From one name to another the registry takes the blobs over itself.
        other = parse_reference(f"docker://{registry.host}/other/image:2")
        copied = copy(parse_reference(target), other, access=PLAIN)
        assert copied.manifest_digest == done.manifest_digest
        assert copied.sent == 0


@pytest.mark.interop
def test_copy_with_an_index(tmp_path: Path) -> None:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    images = [
        builder.image(base(member(b"f", name.encode() * 50)), architecture=name, listed=False)
        for name in ("s390x", "arm64")
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": images}
    builder.entries.append(builder.document(index, INDEX_TYPE))
    builder.write_index()
    source = parse_reference(f"oci:{tmp_path}/layout")
    with go_registry() as registry:
        there = parse_reference(f"docker://{registry.host}/some/image:1")
        done = copy(source, there, every_platform=True, access=PLAIN)
        assert done.manifest_digest == builder.entries[0]["digest"]
        back = parse_reference(f"oci-archive:{tmp_path}/back.tar")
        assert copy(there, back, every_platform=True, access=PLAIN).sent == 4


def random_layer(number: int) -> bytes:
    """A layer of any dialect, with any ending."""
    chance = random.Random(number)
    parts = []
    for index in range(chance.randrange(1, 12)):
        magic = chance.choice([USTAR, GNU, V7])
        name = b"f%d" % index * chance.choice([1, 1, 40])
        size = chance.choice([0, 1, 63, 64, 65, 511, 512, 513, 100_000])
        kind = chance.randrange(6)
        if kind == 0:
            parts.append(directory(name, magic=magic))
        elif kind == 1:
            parts.append(symlink(name, b"t" * chance.choice([1, 99, 150]), magic=magic))
        elif kind == 2 and index:
            parts.append(member(b"target%d" % index, chance.randbytes(size)))
            parts.append(hardlink(name, b"target%d" % index))
        else:
            pax = {b"mtime": b"1.5"} if chance.randrange(2) else {}
            parts.append(member(name, chance.randbytes(size), magic=magic, pax=pax))
    ending = chance.choice([END, END + bytes(512 * chance.randrange(20)), END + b"trailing"])
    return b"".join([directory(b"usr"), *parts]) + ending


def test_layers_come_back_byte_for_byte(tmp_path: Path) -> None:
    layers = [random_layer(number) for number in range(200)]
    builder = LayoutBuilder(f"{tmp_path}/layout")
    with Repository.init(f"{tmp_path}/repo") as repo:
        for start in range(0, len(layers), 20):
            tars = layers[start : start + 20]
            builder.image(*tars, ref=str(start), packing="none")
            pull(repo, builder.source(str(start)), f"image:{start}")
            with RepositorySource(repo, f"image:{start}") as source:
                assert source.missing() == []
                for tar, descriptor in zip(tars, source.manifest.layers, strict=True):
                    with source.open_blob(descriptor) as blob:
                        assert b"".join(pieces(blob)) == tar
