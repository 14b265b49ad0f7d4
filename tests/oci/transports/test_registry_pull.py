"""Pulling from real registries that skopeo pushed to: plain, with passwords, with TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, TransportError
from cfsrepo.oci.importer import PulledImage, pull
from cfsrepo.oci.transports import credentials
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.credentials import Credentials
from cfsrepo.oci.transports.platforms import own_platform, parse_platform
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import INDEX_TYPE, LayoutBuilder, archive, base, member
from tests.oci.transports.registry_servers import (
    PASSWORD,
    USER,
    Server,
    docker_registry,
    go_registry,
    program,
)

pytestmark = pytest.mark.interop

PLAIN = Access(tls_verify=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without credentials and certificates."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    builder.image(
        base(member(b"big", os.urandom(3_000_000)), member(b"small", b"small" * 20)),
        archive(member(b"upper", b"upper" * 1000)),
    )
    return builder


def push(layout: LayoutBuilder, server: Server, *options: str) -> str:
    """Push the layout's image by skopeo; returns the reference."""
    reference = f"docker://{server.host}/some/image:1"
    command = [program("skopeo"), "copy", "--all", *options, layout.source(), reference]
    subprocess.run(command, check=True, capture_output=True)
    return reference


def pull_into(tmp_path: Path, reference: str, access: Access = PLAIN) -> PulledImage:
    with Repository.init(f"{tmp_path}/repo") as repo:
        return pull(repo, reference, access=access)


def from_layout(tmp_path: Path, layout: LayoutBuilder) -> PulledImage:
    with Repository.init(f"{tmp_path}/other") as repo:
        return pull(repo, layout.source())


def test_plain(tmp_path: Path, home: Path, layout: LayoutBuilder) -> None:
    with docker_registry(str(tmp_path)) as server:
        reference = push(layout, server, "--dest-tls-verify=false")
        pulled = pull_into(tmp_path, reference)
        assert pulled.image_id == from_layout(tmp_path, layout).image_id
        assert pulled.manifest_digest == layout.entries[0]["digest"]
        assert pulled.name == f"{server.host}/some/image:1"
        # By digest; everything is there already.
        again = reference.removesuffix(":1") + f"@{pulled.manifest_digest}"
        assert pull_into(tmp_path, again).new_layers == 0
        with pytest.raises(NotFoundError, match="some/image:2"):
            pull_into(tmp_path, reference.removesuffix("1") + "2")
        with pytest.raises(TransportError, match="does not speak TLS"):
            pull_into(tmp_path, reference, Access())


def test_the_registry_of_go(tmp_path: Path, home: Path, layout: LayoutBuilder) -> None:
    with go_registry() as server:
        reference = push(layout, server, "--dest-tls-verify=false")
        assert pull_into(tmp_path, reference).manifest_digest == layout.entries[0]["digest"]


def test_passwords(tmp_path: Path, home: Path, layout: LayoutBuilder) -> None:
    with docker_registry(str(tmp_path), password=True) as server:
        reference = push(
            layout, server, "--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}"
        )
        with pytest.raises(TransportError, match="wants a user") as caught:
            pull_into(tmp_path, reference)
        assert caught.value.hint == f"log in: cfs login {server.host}"
        credentials.store(server.host, Credentials(USER, "wrong"), None)
        with pytest.raises(TransportError, match="refuses this user"):
            pull_into(tmp_path, reference)
        file = credentials.store(server.host, Credentials(USER, PASSWORD), None)
        assert os.stat(file).st_mode & 0o777 == 0o600
        assert pull_into(tmp_path, reference).manifest_digest == layout.entries[0]["digest"]
        credentials.remove(server.host, None)
        with pytest.raises(TransportError, match="wants a user"):
            pull_into(tmp_path, reference)


def test_tls_with_an_own_authority(tmp_path: Path, home: Path, layout: LayoutBuilder) -> None:
    with docker_registry(str(tmp_path), tls=True) as server:
        reference = push(layout, server, "--dest-tls-verify=false")
        with pytest.raises(TransportError, match="is not trusted"):
            pull_into(tmp_path, reference, Access())
        assert pull_into(tmp_path, reference, PLAIN).new_layers == 2
        certificates = home / ".config" / "containers" / "certs.d" / server.host
        certificates.mkdir(parents=True)
        assert server.ca is not None
        (certificates / "ca.crt").write_bytes(Path(server.ca).read_bytes())
        assert pull_into(tmp_path, reference, Access()).new_layers == 0


def test_platforms(tmp_path: Path, home: Path) -> None:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    own = own_platform().architecture
    images = [
        builder.image(base(member(b"f", name.encode() * 50)), architecture=name, listed=False)
        for name in ("s390x", own)
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": images}
    entry = builder.document(index, INDEX_TYPE)
    builder.entries.append(
        {**entry, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    )
    builder.write_index()
    with go_registry() as server:
        reference = push(builder, server, "--dest-tls-verify=false")
        with Repository.init(f"{tmp_path}/repo") as repo:
            assert pull(repo, reference, access=PLAIN).manifest_digest == images[1]["digest"]
            other = pull(repo, reference, "z", platform=parse_platform("s390x"), access=PLAIN)
            assert other.manifest_digest == images[0]["digest"]
            with pytest.raises(NotFoundError, match="no image for linux/riscv64"):
                pull(repo, reference, platform=parse_platform("riscv64"), access=PLAIN)


def test_registries_conf(
    tmp_path: Path, home: Path, layout: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker_registry(str(tmp_path)) as server:
        push(layout, server, "--dest-tls-verify=false")
        conf = tmp_path / "registries.conf"
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        conf.write_text(
            f'unqualified-search-registries = ["{server.host}"]\n'
            f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n'
            f'[[registry]]\nprefix = "example.org/mirrored"\nlocation = "example.invalid/nothing"\n'
            f'[[registry.mirror]]\nlocation = "{server.host}/some"\ninsecure = true\n'
        )
        pulled = pull_into(tmp_path, "some/image:1", Access())
        assert pulled.name == "some/image:1"
        mirrored = pull_into(tmp_path, "docker://example.org/mirrored/image:1", Access())
        assert mirrored.name == "example.org/mirrored/image:1"
        assert mirrored.manifest_digest == pulled.manifest_digest


def test_the_command(tmp_path: Path, home: Path, layout: LayoutBuilder) -> None:
    with docker_registry(str(tmp_path)) as server:
        reference = push(layout, server, "--dest-tls-verify=false")
        cfs = [sys.executable, "-m", "cfstools", "--repo", f"{tmp_path}/repo"]
        subprocess.run([*cfs, "init"], check=True)
        done = subprocess.run(
            [*cfs, "pull", "--tls-verify=false", "--json", reference, "image"],
            check=True,
            capture_output=True,
        )
        assert json.loads(done.stdout)["manifest_digest"] == layout.entries[0]["digest"]
