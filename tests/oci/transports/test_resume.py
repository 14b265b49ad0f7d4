"""Pulls that end early go on from where they were: also when they were killed, or run twice."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo.oci.importer import pull
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.downloads import Partial, trim
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep.gc import collect
from tests.oci.oci_builder import LayoutBuilder, archive, base, member
from tests.oci.transports.hostile_registry import HostileRegistry, Request

DIGEST = "sha256:" + "1" * 64
KILLS = int(os.environ.get("CFS_TEST_KILLS", "8"))


def ignore(text: str) -> None:
    """Nobody listens."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[HostileRegistry]:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    builder.image(
        base(member(b"first", random.Random(1).randbytes(12_000_000))),
        archive(member(b"second", random.Random(2).randbytes(20_000_000))),
    )
    with HostileRegistry() as found:
        found.put(builder)
        yield found


def keep(directory: Path, *pieces: bytes) -> None:
    with Partial(str(directory), DIGEST, ignore) as partial:
        assert list(partial.pieces()) == []
        for piece in pieces:
            partial.append(piece)


def kept(directory: Path) -> list[bytes]:
    with Partial(str(directory), DIGEST, ignore) as partial:
        return list(partial.pieces())


def test_pieces_are_kept_in_order(tmp_path: Path) -> None:
    keep(tmp_path, b"one", b"two", b"three")
    assert kept(tmp_path) == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        ("flip", [b"one"]),
        ("cut", [b"one", b"two"]),
        ("no-sum", [b"one", b"two"]),
        ("tail", [b"one", b"two", b"three"]),
    ],
)
def test_a_damaged_end_is_cut_off(tmp_path: Path, damage: str, left: list[bytes]) -> None:
    keep(tmp_path, b"one", b"two", b"three")
    data, sums = tmp_path / DIGEST, tmp_path / f"{DIGEST}.sums"
    if damage == "flip":
        data.write_bytes(b"onetwXthree")
    elif damage == "cut":
        data.write_bytes(b"onetwothre")
    elif damage == "no-sum":
        sums.write_bytes(sums.read_bytes()[:-1])
    else:
        data.write_bytes(b"onetwothree and more")
    with Partial(str(tmp_path), DIGEST, ignore) as partial:
        assert list(partial.pieces()) == left
        partial.append(b"new")
    assert kept(tmp_path) == [*left, b"new"]


def test_who_stops_reading_early_loses_nothing(tmp_path: Path) -> None:
    keep(tmp_path, b"one", b"two")
    with Partial(str(tmp_path), DIGEST, ignore) as partial:
        assert next(partial.pieces()) == b"one"
    assert kept(tmp_path) == [b"one", b"two"]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"sha256:{number}"
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    trim(str(tmp_path), 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sha256:1", "sha256:2"]


def test_two_pulls_share_a_download(tmp_path: Path, registry: HostileRegistry) -> None:
    both = threading.Barrier(2)
    results = []

    def run(name: str) -> None:
        both.wait()
        command = [sys.executable, "-m", "cfstools", "--repo", f"{tmp_path}/repo", "pull"]
        done = subprocess.run(
            [*command, "--tls-verify=false", registry.reference(), name],
            capture_output=True,
            check=False,
        )
        results.append(done.returncode)

    Repository.init(f"{tmp_path}/repo").close()
    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0]
    image = sum(map(len, registry.blobs.values()))
    assert registry.sent < 1.05 * image + 100_000


def test_killed_again_and_again(tmp_path: Path, registry: HostileRegistry) -> None:
    """What the registry sends is hardly more than the image, however often a pull is killed."""

    def in_step(request: Request) -> bool:
        """Send only what the client has taken up: nothing is under way to one that is dead."""
        digest = request.path.rpartition("/")[2]
        data = registry.blobs.get(digest)
        if data is None or len(data) < 100_000:
            return False
        start = int((request.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        content_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
        status = 206 if start else 200
        request.begin(status, len(data) - start, Content_Range=content_range)
        file = f"{tmp_path}/repo/cfsfuse/downloads/{digest}"
        for at in range(start, len(data), 1 << 15):
            while os.path.exists(file) and os.stat(file).st_size < at - (1 << 16):
                if select.select([request.connection], [], [], 0.0005)[0]:
                    raise BrokenPipeError  # the client is gone
            request.send(data[at : at + (1 << 15)])
        return True

    registry.faults.append(in_step)
    image = sum(map(len, registry.blobs.values()))
    Repository.init(f"{tmp_path}/repo").close()
    command = [sys.executable, "-m", "cfstools", "--repo", f"{tmp_path}/repo", "pull", "-q"]
    command += ["--tls-verify=false", registry.reference(), "image"]
    for _ in range(KILLS):
        wanted = registry.sent + image // (KILLS + 1)
        with subprocess.Popen(command, start_new_session=True) as process:
            while registry.sent < wanted and process.poll() is None:
                time.sleep(0.001)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(command, check=True)
    assert registry.sent < 1.1 * image
    with Repository.open(f"{tmp_path}/repo") as repo:
        collect(repo)
        assert os.listdir(f"{tmp_path}/repo/cfsfuse/downloads") == []
        again = pull(repo, registry.reference(), "again", access=Access(tls_verify=False))
        assert again.new_layers == 0
