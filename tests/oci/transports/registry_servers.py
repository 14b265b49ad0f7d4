"""Real registries on loopback, started by the tests that need them: Debian's docker-registry
(plain, with passwords, with TLS) and the one of go-containerregistry."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.conftest import lookup_peer

INSTALL = {
    "docker-registry": "apt-get install docker-registry",
    "registry": "go install github.com/google/go-containerregistry/cmd/registry@latest",
    "crane": "go install github.com/google/go-containerregistry/cmd/crane@latest",
    "skopeo": "apt-get install skopeo",
    "openssl": "apt-get install openssl",
}
USER, PASSWORD = "ann", "secret word"
HASHED = "$2y$04$abcdefghijklmnopqrstuuP6/q0obcGuk6SuzN66aTZwHeRCLMzKO"  # by bcrypt, cost 4


def program(name: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    path = lookup_peer(name)
    if path is None:
        pytest.skip(f"needs {name}: {INSTALL[name]}")
    return path


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass(frozen=True)
class Server:
    """A registry that runs."""

    host: str
    ca: str | None = None


@contextlib.contextmanager
def started(argv: Sequence[str], port: int, **environment: str) -> Iterator[None]:
    """Run a server until the block ends; begins when it accepts connections."""
    process = subprocess.Popen(
        argv,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, f"{argv[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{argv[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def docker_registry(
    directory: str, *, password: bool = False, tls: bool = False
) -> Iterator[Server]:
    """Debian's registry, with its data in `directory`."""
    port = free_port()
    lines = ["version: 0.1", "log: {level: error}", "storage:"]
    lines += [f"  filesystem: {{rootdirectory: {directory}/data}}", "  delete: {enabled: true}"]
    lines += ["http:", f"  addr: 127.0.0.1:{port}"]
    ca = None
    if tls:
        ca = make_certificates(directory)
        lines += [f"  tls: {{certificate: {directory}/server.crt, key: {directory}/server.key}}"]
    if password:
        with open(f"{directory}/htpasswd", "w", encoding="ascii") as file:
            file.write(f"{USER}:{HASHED}\n")
        lines += ["auth:", f"  htpasswd: {{realm: test, path: {directory}/htpasswd}}"]
    config = f"{directory}/config.yml"
    with open(config, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    with started([program("docker-registry"), "serve", config], port, OTEL_TRACES_EXPORTER="none"):
        yield Server(f"127.0.0.1:{port}", ca)


@contextlib.contextmanager
def go_registry() -> Iterator[Server]:
    """The registry of go-containerregistry, which keeps all in memory."""
    port = free_port()
    with started([program("registry"), "-port", str(port)], port):
        yield Server(f"127.0.0.1:{port}")


def make_certificates(directory: str) -> str:
    """An authority and a certificate for 127.0.0.1 signed by it; returns the authority's."""
    openssl = program("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    run("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    with open(f"{directory}/names", "w", encoding="ascii") as file:
        file.write("subjectAltName=IP:127.0.0.1\n")
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    run("x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
    return f"{directory}/ca.crt"
