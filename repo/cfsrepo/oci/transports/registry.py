"""What one asks of a registry: manifests, blobs, tags. Runs in trio.

Reference: the OCI distribution specification, version 1.1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import trio

from cfsrepo.errors import DigestMismatchError, InputError, LimitError, TransportError, printable
from cfsrepo.oci.documents import (
    DOCUMENT_MAX,
    INDEX_TYPE,
    INDEX_TYPES,
    MANIFEST_TYPE,
    MANIFEST_TYPES,
    Descriptor,
    check_digest,
)
from cfsrepo.oci.transports.http import Client

_ACCEPT: Final = ", ".join([*sorted(MANIFEST_TYPES | INDEX_TYPES), "*/*;q=0.1"])
_TAGS_MAX: Final = 100_000
_PAGES_MAX: Final = 1000
_PROGRESS: Final = 1 << 20  # bytes after which a download that failed before is as good as new
_FAILURES_MAX: Final = 5
_SLOW_WINDOW: Final = 60.0  # seconds
SLOW_BYTES: Final = 16 << 10
"""Bytes of a blob that must arrive within a minute."""

Take = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or an index as it came."""

    descriptor: Descriptor
    data: bytes


class Name:
    """Requests for one name in a registry."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.path = f"/v2/{client.endpoint.path}"
        self.name = client.endpoint.name

    def scope(self, actions: str = "pull") -> str:
        """The scope of a token for it."""
        return f"repository:{self.client.endpoint.path}:{actions}"

    async def manifest(self, version: str) -> Fetched:
        """The manifest or index of a tag or digest; DigestMismatchError where it is another."""
        name = f"{self.name}:{version}" if ":" not in version else f"{self.name}@{version}"
        path = f"{self.path}/manifests/{version}"
        async with self.client.send(
            "GET", path, headers={"Accept": _ACCEPT}, scope=self.scope()
        ) as response:
            if response.status_code != 200:
                raise await self.client.refusal(response, name)
            data = await self.client.read(response, DOCUMENT_MAX, name)
            declared = response.headers.get("Docker-Content-Digest")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if ":" in version:
            digest = version
            check_digest(data, digest, name)
        else:
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if declared is not None and declared.startswith("sha256:") and declared != digest:
                raise DigestMismatchError(
                    f"{name}: the registry says {printable(declared)[:80]}, but it is {digest}"
                )
        return Fetched(Descriptor(_type_of(data, media_type, name), digest, len(data)), data)

    async def blob(
        self, descriptor: Descriptor, offset: int, take: Take, kind: str = "blobs"
    ) -> None:
        """Hand the bytes of a blob from `offset` on to `take`; after failures goes on where it was.

        InputError where there are more or fewer than the descriptor says.
        """
        name = f"{self.name}: blob {descriptor.digest}"
        transfer = _Transfer(self.client, f"{self.path}/{kind}/{descriptor.digest}", name)
        await transfer.run(descriptor.size, offset, take, self.scope())

    async def tags(self) -> list[str]:
        """All tags, in the registry's order."""
        found: list[str] = []
        async for page in self._pages(f"{self.path}/tags/list"):
            tags = page.get("tags") or []
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise InputError(f"{self.name}: the list of tags is none")
            found += tags
            if len(found) > _TAGS_MAX:
                raise LimitError(f"{self.name}: more than {_TAGS_MAX} tags")
        return found

    async def _pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        address: str | None = path
        seen: set[str] = set()
        while address is not None:
            if address in seen or len(seen) > _PAGES_MAX:
                raise LimitError(f"{self.name}: a list without end")
            seen.add(address)
            async with self.client.send("GET", address, scope=self.scope()) as response:
                if response.status_code != 200:
                    raise await self.client.refusal(response, self.name)
                data = await self.client.read(response, DOCUMENT_MAX, self.name)
                link = response.headers.get("Link", "")
            try:
                page = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.name}: the registry's answer is no JSON") from error
            if not isinstance(page, dict):
                raise InputError(f"{self.name}: the registry's answer is no JSON object")
            yield page
            address = next_page(link)


class _Transfer:
    """The download of one blob, in as many requests as it takes."""

    def __init__(self, client: Client, path: str, name: str) -> None:
        self.client = client
        self.path = path
        self._name = name
        self._position = 0

    async def run(self, size: int, offset: int, take: Take, scope: str) -> None:
        failures = 0
        good = self._position = offset
        while self._position < size or size == 0:
            try:
                await self._request(size, take, scope)
                if self._position == size:
                    return
                raise httpx2.RemoteProtocolError(f"{self._position} of {size} bytes")
            except (httpx2.HTTPError, trio.TooSlowError) as error:
                if self._position - good >= _PROGRESS:
                    failures, good = 0, self._position
                failures += 1
                if failures >= _FAILURES_MAX:
                    raise self.client.broken(error, self._name) from error
                why = f"{self._name}: cut off after {self._position} of {size} bytes"
                await self.client.pause(failures - 1, why)

    async def _request(self, size: int, take: Take, scope: str) -> None:
        headers = {}
        if self._position:
            headers["Range"] = f"bytes={self._position}-{size - 1}"
        async with self.client.send("GET", self.path, headers=headers, scope=scope) as response:
            status = response.status_code
            if status == 416 and self._position:
                start = 0
            elif status not in (200, 206):
                raise await self.client.refusal(response, self._name)
            else:
                start = self._start(response, size)
                await self._receive(response, start, size, take)
                return
        self._started_over()
        async with self.client.send("GET", self.path, scope=scope) as response:
            if response.status_code != 200:
                raise await self.client.refusal(response, self._name)
            await self._receive(response, self._start(response, size), size, take)

    def _start(self, response: httpx2.Response, size: int) -> int:
        """Which byte the answer begins with."""
        start = 0
        if response.status_code == 206:
            value = response.headers.get("Content-Range", "")
            if not value.startswith(f"bytes {self._position}-"):
                raise TransportError(
                    f"{self._name}: the registry sends another range than it was asked for: "
                    f"{printable(value)[:80]}"
                )
            start = self._position
        elif self._position:
            self._started_over()
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != size - start:
            raise InputError(
                f"{self._name}: the registry sends {int(length[:20]) + start} bytes, "
                f"the manifest says {size}"
            )
        return start

    def _started_over(self) -> None:
        self.client.access.say(
            f"{self._name}: the registry cannot go on within a blob; it starts over"
        )

    async def _receive(self, response: httpx2.Response, start: int, size: int, take: Take) -> None:
        """Hand on what is new of an answer that begins with the byte `start`."""
        at, since, counted = start, trio.current_time(), 0
        async for piece in response.aiter_raw():
            at += len(piece)
            counted += len(piece)
            if at > size:
                raise InputError(f"{self._name}: more than {size} bytes")
            if at > self._position:
                fresh = piece[len(piece) - (at - self._position) :]
                await take(fresh)
                self._position = at
            if (now := trio.current_time()) - since > _SLOW_WINDOW:
                if counted < SLOW_BYTES:
                    raise trio.TooSlowError
                since, counted = now, 0


def next_page(link: str) -> str | None:
    """The address of the next page in a `Link` header (RFC 8288)."""
    for part in link.split(","):
        target, _, parameters = part.partition(";")
        target = target.strip()
        is_next = "rel=next" in parameters.replace(" ", "").replace('"', "")
        if is_next and target.startswith("<") and target.endswith(">"):
            return target[1:-1]
    return None


def _type_of(data: bytes, header: str, name: str) -> str:
    """The type of a manifest: what it says itself, else what the answer says, else its shape."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{name}: no JSON object")
    own = document.get("mediaType")
    if isinstance(own, str) and own:
        return own
    if header in MANIFEST_TYPES | INDEX_TYPES:
        return header
    if isinstance(document.get("manifests"), list):
        return INDEX_TYPE
    if isinstance(document.get("layers"), list):
        return MANIFEST_TYPE
    return header


async def ping(client: Client) -> None:
    """Ask whether the registry takes our credentials. TransportError where it does not."""
    async with client.send("GET", "/v2/", scope="") as response:
        if response.status_code != 200:
            raise await client.refusal(response, client.endpoint.host)
