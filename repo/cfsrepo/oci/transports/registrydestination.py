"""Writing an image to a registry: what is there is not sent, what is elsewhere there is mounted.

A blob goes in chunks (POST, PATCH, PUT). A chunk that failed is sent again from where the registry
says that it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import httpx2

from cfsrepo.errors import DigestMismatchError, TransportError, UsageError, printable
from cfsrepo.oci.documents import Descriptor
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import Blob, pieces
from cfsrepo.oci.transports.http import Client
from cfsrepo.oci.transports.reference import RegistryReference
from cfsrepo.oci.transports.registriesconf import RegistriesConf
from cfsrepo.oci.transports.registry import Name
from cfsrepo.oci.transports.registrysource import RegistryPlace

_CHUNK: Final = 8 << 20
_ACTIONS: Final = "pull,push"
_FAILURES_MAX: Final = 5


class RegistryDestination:
    """An image in a registry, to be written."""

    plain_layers = False

    def __init__(
        self, reference: RegistryReference, access: Access, mounts: Sequence[str] = ()
    ) -> None:
        """`mounts`: names in this registry that may have the blobs already."""
        if not reference.host:
            raise UsageError(
                f"{reference}: no registry is named", hint="docker://HOST/NAME[:TAG] names one"
            )
        self.name = str(reference)
        self.reference = reference
        self._mounts = [name for name in mounts if name != reference.path]
        # What is pushed goes to the registry itself, not to a mirror.
        endpoint = RegistriesConf.load().endpoints(reference)[-1]
        self._place = RegistryPlace(endpoint, access)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Is the blob there? One that another name has is taken over."""

        async def look(name: Name) -> bool:
            upload = _Upload(name, descriptor, self._mounts)
            return await upload.exists() or await upload.mount()

        return self._place.run(look)

    def put_blob(self, blob: Blob, report: Callable[[int], object]) -> None:
        """Send a blob."""

        async def send(name: Name) -> None:
            await _Upload(name, blob.descriptor, ()).send(_chunks(blob), report)

        self._place.run(send)

    def put_manifest(self, data: bytes, descriptor: Descriptor, *, named: bool) -> None:
        """Send a manifest: by its tag where it is what the reference means."""
        version = descriptor.digest
        if named and self.reference.digest is None:
            version = self.reference.version
        if named and self.reference.digest not in (None, descriptor.digest):
            raise UsageError(f"{self.name}: the image is {descriptor.digest}")

        async def put(name: Name) -> None:
            await _put_manifest(name, version, data, descriptor)

        self._place.run(put)

    def finish(self) -> None:
        """Nothing is left to do: the manifest made it visible."""

    def close(self) -> None:
        """Nothing is held between requests."""


class _Upload:
    """The upload of one blob."""

    def __init__(self, name: Name, descriptor: Descriptor, mounts: Sequence[str]) -> None:
        self._name = name
        self._client: Client = name.client
        self._descriptor = descriptor
        self._mounts = mounts
        self._what = f"{name.name}: blob {descriptor.digest}"

    async def exists(self) -> bool:
        path = f"{self._name.path}/blobs/{self._descriptor.digest}"
        scope = self._name.scope(_ACTIONS)
        async with self._client.send("HEAD", path, scope=scope) as response:
            if response.status_code not in (200, 404):
                raise await self._client.refusal(response, self._what)
            return response.status_code == 200

    async def mount(self) -> bool:
        """Take the blob over from another name. Where that fails, it has to be sent."""
        for other in self._mounts:
            scope = f"{self._name.scope(_ACTIONS)} repository:{other}:pull"
            path = f"{self._name.path}/blobs/uploads/?mount={self._descriptor.digest}&from={other}"
            async with self._client.send("POST", path, scope=scope) as response:
                if response.status_code == 201:
                    return True
                if response.status_code == 202 and "Location" in response.headers:
                    location = str(response.request.url.join(response.headers["Location"]))
                    await self._cancel(location)
        return False

    async def _cancel(self, location: str) -> None:
        """The registry began an upload in place of a mount: end it, if it likes to."""
        scope = self._name.scope(_ACTIONS)
        async with self._client.send("DELETE", location, scope=scope, retry=False):
            return

    async def send(self, chunks: Iterator[bytes], report: Callable[[int], object]) -> None:
        scope = self._name.scope(_ACTIONS)
        path = f"{self._name.path}/blobs/uploads/"
        async with self._client.send("POST", path, scope=scope) as response:
            if response.status_code != 202:
                raise await self._client.refusal(response, self._what)
            location = self._location(response)
        at = 0
        for chunk in chunks:
            location = await self._patch(location, chunk, at)
            at += len(chunk)
            report(len(chunk))
        url = httpx2.URL(location).copy_merge_params({"digest": self._descriptor.digest})
        headers = {"Content-Length": "0", "Content-Type": "application/octet-stream"}
        async with self._client.send("PUT", str(url), headers=headers, scope=scope) as response:
            if response.status_code != 201:
                raise await self._client.refusal(response, self._what)

    async def _patch(self, location: str, chunk: bytes, start: int) -> str:
        """Send one chunk that begins at the byte `start`; where the next one goes."""
        end = start + len(chunk)
        at = start
        for attempt in range(_FAILURES_MAX):
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{at}-{end - 1}",
            }
            try:
                async with self._client.send(
                    "PATCH",
                    location,
                    headers=headers,
                    content=chunk[at - start :],
                    scope=self._name.scope(_ACTIONS),
                    retry=False,
                ) as response:
                    if response.status_code == 202:
                        return self._location(response)
                    if response.status_code not in (416, 408, 429, 500, 502, 503, 504):
                        raise await self._client.refusal(response, self._what)
                    failure: Exception = await self._client.refusal(response, self._what)
            except TransportError as error:
                if error.hint is not None:
                    raise
                failure = error
            await self._client.pause(attempt, str(failure))
            location, received = await self._status(location, failure)
            if received >= end:
                return location
            if received < start:
                raise failure
            at = received
        raise failure

    async def _status(self, location: str, failure: Exception) -> tuple[str, int]:
        """Where to go on, and how many bytes the registry has."""
        scope = self._name.scope(_ACTIONS)
        async with self._client.send("GET", location, scope=scope) as response:
            if response.status_code != 204:
                raise failure
            match = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
            return self._location(response), int(match[1]) + 1 if match else 0

    def _location(self, response: httpx2.Response) -> str:
        target = response.headers.get("Location", "")
        url = response.request.url.join(target) if target else None
        if url is None or url.scheme not in ("http", "https"):
            raise TransportError(
                f"{self._what}: the registry does not say where to send it: "
                f"{printable(target)[:80]}"
            )
        return str(url)


async def _put_manifest(name: Name, version: str, data: bytes, descriptor: Descriptor) -> None:
    path = f"{name.path}/manifests/{version}"
    headers = {"Content-Type": descriptor.media_type}
    scope = name.scope(_ACTIONS)
    async with name.client.send(
        "PUT", path, headers=headers, content=data, scope=scope
    ) as response:
        if response.status_code not in (200, 201, 202):
            raise await name.client.refusal(response, f"{name.name}: manifest {version}")
        declared = response.headers.get("Docker-Content-Digest", descriptor.digest)
    if declared != descriptor.digest:
        raise DigestMismatchError(
            f"{name.name}: the registry stored {printable(declared)[:80]}, not {descriptor.digest}"
        )


def _chunks(blob: Blob) -> Iterator[bytes]:
    """A blob in large chunks; ends only if it was the blob that was promised."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces(blob):
        parts.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
