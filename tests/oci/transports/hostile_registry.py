"""A small registry of the tests' own: tokens with scopes, referrers, Range or not, and faults.

It serves what is put into `blobs` and `manifests`. Each request is noted in `requests`. A fault is
a function that is given the request and may answer it in its own way.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.oci.oci_builder import LayoutBuilder, sha256

Fault = Callable[["Request"], bool]
"""Answers the request and says True; False leaves it to the registry."""


class Request(BaseHTTPRequestHandler):
    """One request, and the means to answer it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Stay silent."""

    def answer(
        self, status: int, body: bytes = b"", content_type: str = "application/json", **headers: str
    ) -> None:
        """A whole answer."""
        self.begin(status, len(body), content_type, **headers)
        if self.command != "HEAD":
            self.send(body)

    def begin(
        self, status: int, length: int | None, content_type: str = "", **headers: str
    ) -> None:
        """The head of an answer."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if content_type:
            self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send(self, data: bytes) -> None:
        """A part of the body."""
        self.wfile.write(data)
        self.server.registry.sent += len(data)

    def cut(self) -> None:
        """End the connection here."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """Serve."""
        registry = self.server.registry
        registry.note(self)
        try:
            if any(fault(self) for fault in registry.faults):
                return
            registry.serve(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - names that the base class looks for


class Server(ThreadingHTTPServer):
    """Listens on loopback."""

    daemon_threads = True
    request_queue_size = 64
    registry: HostileRegistry

    def handle_error(self, request: object, client_address: object) -> None:
        """The client may go away."""


class HostileRegistry:
    """A registry with faults. A context manager."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0
        self.ranges = True
        self.token_service: str | None = None
        """The address of a service whose tokens are wanted."""
        self.good_tokens: set[str] = set()
        self._lock = threading.Lock()
        self._server = Server((address, 0), Request)
        self._server.registry = self
        self.host = f"{address}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> HostileRegistry:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, builder: LayoutBuilder, tag: str = "latest") -> str:
        """Take over the only image of a layout, as `tag`; returns the manifest's digest."""
        entry = builder.entries[-1]
        with open(builder.blob_path(entry["digest"]), "rb") as file:
            data = file.read()
        document = json.loads(data)
        for part in (document["config"], *document["layers"]):
            with open(builder.blob_path(part["digest"]), "rb") as file:
                self.blobs[part["digest"]] = file.read()
        return self.put_manifest(data, entry["mediaType"], tag)

    def put_manifest(self, data: bytes, media_type: str, tag: str) -> str:
        """Serve a manifest, by tag and by digest."""
        digest = sha256(data)
        self.manifests[tag] = self.manifests[digest] = (data, media_type)
        return digest

    def reference(self, tag: str = "latest") -> str:
        """What a client calls the image."""
        return f"docker://{self.host}/some/image:{tag}"

    def note(self, request: Request) -> None:
        """Remember a request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        with self._lock:
            self.requests.append((request.command, request.path, headers))

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of the requests whose path has `part`."""
        return [headers for _, path, headers in self.requests if part in path]

    def serve(self, request: Request) -> None:
        """What a good registry answers."""
        path = urllib.parse.urlsplit(request.path).path
        if path == "/token":
            self._give_token(request)
            return
        if self.token_service is not None:
            token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in self.good_tokens:
                challenge = (
                    f'Bearer realm="{self.token_service}",service="test registry",'
                    'scope="repository:some/image:pull"'
                )
                request.answer(401, b"{}", WWW_Authenticate=challenge)
                return
        match = re.fullmatch(r"/v2/some/image/(manifests|blobs)/(.*)", path)
        if match is None:
            request.answer(200 if path == "/v2/" else 404, b"{}")
        elif match[1] == "manifests":
            found = self.manifests.get(match[2])
            if found is None:
                body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such manifest"}]}'
                request.answer(404, body)
            else:
                request.answer(200, found[0], found[1])
        elif (data := self.blobs.get(match[2])) is None:
            request.answer(404, b"{}")
        else:
            self.send_blob(request, data)

    def send_blob(self, request: Request, data: bytes, step: int = 1 << 16) -> None:
        """A blob, or the range of it that is asked for."""
        start, end = 0, len(data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        if wanted and self.ranges:
            start = int(wanted[1])
            end = min(end, int(wanted[2]) + 1) if wanted[2] else end
            content_range = f"bytes {start}-{end - 1}/{len(data)}"
            request.begin(206, end - start, Content_Range=content_range)
        else:
            request.begin(200, end)
        for at in range(start, end, step):
            request.send(data[at : min(end, at + step)])

    def _give_token(self, request: Request) -> None:
        token = f"token-{len(self.good_tokens)}"
        self.good_tokens.add(token)
        request.answer(200, json.dumps({"token": token}).encode())


def basic(user: str, password: str) -> str:
    """The header for a user and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
