"""What a registry may do wrong: one clear error each, soon, and nothing visible afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo.errors import (
    EXIT_INTERRUPTED,
    CfsError,
    DigestMismatchError,
    InputError,
    LimitError,
    TransportError,
)
from cfsrepo.oci.importer import PulledImage, pull
from cfsrepo.oci.transports import credentials, http
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.credentials import Credentials
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import MANIFEST_TYPE, LayoutBuilder, archive, base, gzip, member
from tests.oci.transports.hostile_registry import HostileRegistry, Request, basic

BIG = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without waiting, and nothing of this machine's own configuration."""
    monkeypatch.setattr(http, "BACKOFF", 0.001)
    monkeypatch.setattr(http, "BACKOFF_MAX", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    builder.image(base(member(b"big", BIG)), archive(member(b"upper", b"upper" * 1000)))
    return builder


@pytest.fixture
def registry(layout: LayoutBuilder) -> Iterator[HostileRegistry]:
    with HostileRegistry() as found:
        found.put(layout)
        yield found


class Puller:
    """Pulls, and remembers what was said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []

    def pull(self, reference: str) -> PulledImage:
        access = Access(tls_verify=False, say=self.said.append)
        with Repository.init(f"{self.path}/repo") as repo:
            return pull(repo, reference, access=access)

    def refused(self, reference: str, kind: type[CfsError]) -> str:
        """The error that pulling gives; nothing is visible then."""
        with pytest.raises(kind) as caught:
            self.pull(reference)
        with Repository.open(f"{self.path}/repo") as repo:
            assert (repo.streams(), repo.images(), repo.tags()) == ({}, {}, {})
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(tmp_path)


def blob(request: Request) -> bytes | None:
    """The big layer, where that is what is asked for."""
    if "/blobs/" not in request.path:
        return None
    data = request.server.registry.blobs.get(request.path.rpartition("/")[2])
    return data if data is not None and len(data) > 1_000_000 else None


def test_a_good_one(registry: HostileRegistry, puller: Puller, layout: LayoutBuilder) -> None:
    pulled = puller.pull(registry.reference())
    assert pulled.manifest_digest == layout.entries[0]["digest"]


def test_layers_that_are_there_are_not_asked_for(registry: HostileRegistry, puller: Puller) -> None:
    puller.pull(registry.reference())
    before = len(registry.asked("/blobs/"))
    assert puller.pull(registry.reference()).new_layers == 0
    assert len(registry.asked("/blobs/")) == before + 1  # the configuration


def test_busy_ones_are_asked_again(registry: HostileRegistry, puller: Puller) -> None:
    statuses = iter([429, 503, 500])

    def busy(request: Request) -> bool:
        status = next(statuses, None)
        if status is None:
            return False
        request.answer(status, b"{}", Retry_After="0")
        return True

    registry.faults.append(busy)
    puller.pull(registry.reference())
    assert sum("trying again" in text for text in puller.said) == 3


def test_always_busy(registry: HostileRegistry, puller: Puller) -> None:
    def busy(request: Request) -> bool:
        request.answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\\ndown"}]}')
        return True

    registry.faults.append(busy)
    text = puller.refused(registry.reference(), TransportError)
    assert "status 429 (TOOMANYREQUESTS: slow" in text
    assert len(registry.requests) == 5


def test_a_layer_that_is_cut_goes_on(registry: HostileRegistry, puller: Puller) -> None:
    cuts = iter(range(3))

    def cut(request: Request) -> bool:
        data = blob(request)
        if data is None or next(cuts, None) is None:
            return False
        start = int((request.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        if start:
            content_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
            request.begin(206, len(data) - start, Content_Range=content_range)
        else:
            request.begin(200, len(data))
        request.send(data[start : start + 700_000])
        request.cut()
        return True

    registry.faults.append(cut)
    puller.pull(registry.reference())
    ranges = [headers["range"] for headers in registry.asked("/blobs/") if "range" in headers]
    assert len(ranges) == 3
    assert all(wanted != "bytes=0-" for wanted in ranges)
    # Nothing is sent twice but what was lost with a connection.
    assert registry.sent < sum(map(len, registry.blobs.values())) + 2_000_000


def test_one_that_cuts_for_ever(registry: HostileRegistry, puller: Puller) -> None:
    def cut(request: Request) -> bool:
        data = blob(request)
        if data is not None:
            request.begin(200, len(data))
            request.send(data[:1000])
            request.cut()
        return data is not None

    registry.faults.append(cut)
    assert "connection to" in puller.refused(registry.reference(), TransportError)


def test_one_that_stalls(
    registry: HostileRegistry, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALL", 0.2)
    done = threading.Event()

    def stall(request: Request) -> bool:
        data = blob(request)
        if data is not None:
            request.begin(200, len(data))
            request.send(data[:1000])
            done.wait(60)
        return data is not None

    registry.faults.append(stall)
    try:
        assert "in time" in puller.refused(registry.reference(), TransportError)
    finally:
        done.set()


def test_another_length(registry: HostileRegistry, puller: Puller) -> None:
    def longer(request: Request) -> bool:
        data = blob(request)
        if data is not None:
            request.answer(200, data + b"more")
        return data is not None

    registry.faults.append(longer)
    assert "the manifest says" in puller.refused(registry.reference(), InputError)


def test_bytes_without_end(registry: HostileRegistry, puller: Puller) -> None:
    def endless(request: Request) -> bool:
        data = blob(request)
        if data is not None:
            request.begin(200, None)
            request.close_connection = True
            while True:
                request.send(data)
        return False

    registry.faults.append(endless)
    assert "more than" in puller.refused(registry.reference(), InputError)


def test_another_content(registry: HostileRegistry, puller: Puller) -> None:
    [(bad, data)] = [(d, data) for d, data in registry.blobs.items() if len(data) > 1_000_000]
    registry.blobs[bad] = data[:-1] + bytes([data[-1] ^ 1])
    puller.refused(registry.reference(), DigestMismatchError)
    # What was received of it is not taken for a beginning the next time.
    assert bad not in os.listdir(f"{puller.path}/repo/cfsfuse/downloads")


def test_another_manifest_than_asked(registry: HostileRegistry, puller: Puller) -> None:
    wanted = "sha256:" + "1" * 64
    registry.manifests[wanted] = registry.manifests["latest"]
    reference = registry.reference().removesuffix(":latest") + f"@{wanted}"
    assert f"not {wanted}" in puller.refused(reference, DigestMismatchError)


def test_a_digest_in_the_header_that_lies(registry: HostileRegistry, puller: Puller) -> None:
    def lie(request: Request) -> bool:
        if "/manifests/" not in request.path:
            return False
        data, media_type = registry.manifests["latest"]
        request.answer(200, data, media_type, Docker_Content_Digest="sha256:" + "2" * 64)
        return True

    registry.faults.append(lie)
    assert "but it is sha256:" in puller.refused(registry.reference(), DigestMismatchError)


def test_json_without_end(registry: HostileRegistry, puller: Puller) -> None:
    def endless(request: Request) -> bool:
        request.begin(200, None, MANIFEST_TYPE)
        request.close_connection = True
        while True:
            request.send(b'{"a":' * 10_000)

    registry.faults.append(endless)
    assert "an answer of more than" in puller.refused(registry.reference(), LimitError)


def test_too_many_layers(registry: HostileRegistry, puller: Puller) -> None:
    document = json.loads(registry.manifests["latest"][0])
    document["layers"] = document["layers"][:1] * 10_000
    registry.put_manifest(json.dumps(document).encode(), MANIFEST_TYPE, "many")
    assert "10000 layers" in puller.refused(registry.reference("many"), LimitError)


def test_a_bomb(tmp_path: Path, puller: Puller) -> None:
    builder = LayoutBuilder(f"{tmp_path}/bomb")
    bomb = gzip(base(member(b"zeros", bytes(64 << 20))))
    layers = [builder.blob(bomb, "application/vnd.oci.image.layer.v1.tar+gzip")]
    builder.image(base(), layers=layers)  # its diff id is another
    with HostileRegistry() as registry:
        registry.put(builder)
        puller.refused(registry.reference(), InputError)


def test_redirects_elsewhere_get_no_credentials(
    registry: HostileRegistry, puller: Puller, layout: LayoutBuilder
) -> None:
    credentials.store(registry.host, Credentials("ann", "secret"), None)

    def guarded(request: Request) -> bool:
        if request.headers.get("Authorization") != basic("ann", "secret"):
            request.answer(401, b"{}", WWW_Authenticate='Basic realm="x"')
            return True
        return False

    with HostileRegistry() as other:
        other.put(layout)

        def elsewhere(request: Request) -> bool:
            if blob(request) is None:
                return False
            request.answer(307, b"", Location=f"http://{other.host}{request.path}")
            return True

        registry.faults += [guarded, elsewhere]
        puller.pull(registry.reference())
        assert registry.asked("/manifests/")[-1]["authorization"] == basic("ann", "secret")
        assert len(other.requests) == 1
        assert "authorization" not in other.requests[0][2]


def test_redirects_without_end(registry: HostileRegistry, puller: Puller) -> None:
    def around(request: Request) -> bool:
        request.answer(302, b"", Location=request.path + "x")
        return True

    registry.faults.append(around)
    assert "redirects" in puller.refused(registry.reference(), TransportError)


def test_tokens_of_a_service_on_another_host(registry: HostileRegistry, puller: Puller) -> None:
    credentials.store(registry.host, Credentials("ann", "secret"), None)
    with HostileRegistry() as service:
        registry.token_service = f"http://{service.host}/token"
        registry.good_tokens = service.good_tokens
        puller.pull(registry.reference())
        method, path, headers = service.requests[0]
        assert method == "GET"
        assert "scope=repository%3Asome%2Fimage%3Apull" in path
        assert "service=test+registry" in path
        assert headers["authorization"] == basic("ann", "secret")


def test_tokens_that_expire_are_got_anew(registry: HostileRegistry, puller: Puller) -> None:
    registry.token_service = f"http://{registry.host}/token"

    def expire(request: Request) -> bool:
        if "/blobs/" in request.path and len(registry.good_tokens) < 3:
            registry.good_tokens.clear()
            registry.good_tokens |= {f"old-{number}" for number in range(len(registry.requests))}
        return False

    registry.faults.append(expire)
    puller.pull(registry.reference())


def test_a_token_service_that_gives_none(registry: HostileRegistry, puller: Puller) -> None:
    registry.token_service = f"http://{registry.host}/token"

    def refuse(request: Request) -> bool:
        if request.path.startswith("/token"):
            request.answer(200, b"[1]")
            return True
        return False

    registry.faults.append(refuse)
    assert "without a token" in puller.refused(registry.reference(), TransportError)


def test_a_registry_without_ranges_starts_over(registry: HostileRegistry, puller: Puller) -> None:
    registry.ranges = False
    once = iter([True])

    def cut(request: Request) -> bool:
        data = blob(request)
        if data is None or next(once, None) is None:
            return False
        request.begin(200, len(data))
        request.send(data[:1_000_000])
        request.cut()
        return True

    registry.faults.append(cut)
    puller.pull(registry.reference())


def test_nothing_listens(puller: Puller) -> None:
    with HostileRegistry() as gone:
        reference = gone.reference()
    assert "failed" in puller.refused(reference, TransportError)


def test_interrupted(registry: HostileRegistry, puller: Puller) -> None:
    """Ctrl-C while the registry says nothing."""
    reached, done = threading.Event(), threading.Event()

    def stall(request: Request) -> bool:
        if blob(request) is None:
            return False
        reached.set()
        done.wait(60)
        return True

    registry.faults.append(stall)
    Repository.init(f"{puller.path}/repo").close()
    command = [sys.executable, "-m", "cfstools", "--repo", f"{puller.path}/repo", "pull"]
    command += ["--tls-verify=false", registry.reference()]
    # What starts tests side by side may ignore the signal, which is inherited.
    ready = "import os, signal, sys; signal.signal(2, signal.default_int_handler); "
    ready += "os.execv(sys.argv[1], sys.argv[1:])"
    try:
        with subprocess.Popen([sys.executable, "-c", ready, *command]) as process:
            assert reached.wait(60)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == EXIT_INTERRUPTED
    finally:
        done.set()
    with Repository.open(f"{puller.path}/repo") as repo:
        assert (repo.streams(), repo.images(), repo.tags()) == ({}, {}, {})
