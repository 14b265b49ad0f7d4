"""An image in a registry, to be read by a pull or a copy.

Documents are fetched in the calling thread, which runs trio for as long as that takes. A blob has a
thread of its own (`cfsrepo.oci.transports.receiver`). Processes forked in between share nothing but
values: names, tokens.
"""

from __future__ import annotations

import errno
import operator
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from cfsrepo.errors import CfsError, InputError, NotFoundError
from cfsrepo.oci.documents import DOCUMENT_MAX, LAYER_TYPES, Descriptor
from cfsrepo.oci.transports import credentials
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.authorization import Authorization
from cfsrepo.oci.transports.blob import Blob
from cfsrepo.oci.transports.credentials import Credentials
from cfsrepo.oci.transports.downloads import Partial, trim
from cfsrepo.oci.transports.http import Client
from cfsrepo.oci.transports.receiver import Receiver, Send
from cfsrepo.oci.transports.reference import RegistryReference
from cfsrepo.oci.transports.registriesconf import Endpoint, RegistriesConf, resolve
from cfsrepo.oci.transports.registry import Fetched, Name, ping

Result = TypeVar("Result")


class RegistryPlace:
    """One place where an image may be: an endpoint with what was found out about it."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        self.endpoint = endpoint
        self.access = access
        found = credentials.find(endpoint.host, endpoint.path, access.authfile)
        self.authorization = Authorization(endpoint.host, found)
        # Made before layers' processes are forked: OpenSSL is not to be started in those.
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def client(self) -> Client:
        """A new client, to be used in one run of trio."""
        return Client(self.endpoint, self.access, self.authorization, self._contexts)

    def run(self, operation: Callable[[Name], Awaitable[Result]]) -> Result:
        """Run requests to their end, in this thread."""

        async def main() -> Result:
            async with self.client() as client:
                return await operation(Name(client))

        return trio.run(main)


class RegistrySource:
    """An image in a registry or one of its mirrors."""

    def __init__(self, reference: RegistryReference, access: Access) -> None:
        self.name = str(reference)
        self.reference = reference
        self._access = access
        self._place: RegistryPlace | None = None
        self._found: Descriptor | None = None
        self._documents: dict[str, Fetched] = {}
        if access.downloads is not None:
            trim(access.downloads)

    def close(self) -> None:
        """Nothing is held between requests."""

    @property
    def place(self) -> RegistryPlace:
        """Where the image was found."""
        if self._place is None:
            self.find()
        assert self._place is not None
        return self._place

    def find(self) -> list[Descriptor]:
        """The manifest or index of the reference, in the first place that has it."""
        if self._found is not None:
            return [self._found]
        errors: list[CfsError] = []
        for full, endpoints in resolve(RegistriesConf.load(), self.reference):
            for endpoint in endpoints:
                place = RegistryPlace(endpoint, self._access)
                try:
                    found = place.run(operator.methodcaller("manifest", full.version))
                except CfsError as error:
                    errors.append(error)
                    self._access.say(str(error))
                    continue
                self._place, self._found = place, found.descriptor
                self._documents[found.descriptor.digest] = found
                return [found.descriptor]
        # What is not just missing says more.
        raise next((e for e in errors if not isinstance(e, NotFoundError)), errors[-1])

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest or an index, checked."""
        digest = descriptor.digest
        if digest not in self._documents:
            self._documents[digest] = self.place.run(lambda name: name.manifest(digest))
        data = self._documents[digest].data
        if len(data) != descriptor.size:
            raise InputError(f"{self.name}: {digest}: {len(data)} bytes, not {descriptor.size}")
        return data

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob; nothing is asked for before the first read."""
        kept = descriptor.size > DOCUMENT_MAX or descriptor.media_type in LAYER_TYPES
        partial = None
        if self._access.downloads is not None and kept:
            partial = Partial(self._access.downloads, descriptor.digest, self._access.say)
        return RegistryBlob(self.place, descriptor, partial)


class RegistryBlob(Blob):
    """A blob of a registry: first what was received before, then the rest."""

    def __init__(
        self, place: RegistryPlace, descriptor: Descriptor, partial: Partial | None
    ) -> None:
        super().__init__(descriptor, f"{place.endpoint.name}: blob {descriptor.digest}")
        self._place = place
        self._partial = partial
        self._before: Iterator[bytes] | None = None if partial is None else partial.pieces()
        self._receiver: Receiver | None = None
        self._buffer = memoryview(b"")
        self._interrupted = False

    def _receive(self, count: int) -> bytes:
        if not self._buffer:
            self._buffer = memoryview(self._next())
        data = self._buffer[:count]
        self._buffer = self._buffer[count:]
        return bytes(data)

    def _next(self) -> bytes:
        if self._interrupted:
            raise OSError(errno.ECANCELED, "the download was given up")
        if self._before is not None:
            if (piece := next(self._before, None)) is not None:
                return piece
            self._before = None
            if self._partial is not None and self._partial.size:
                self._place.access.say(f"{self.name}: goes on after {self._partial.size} bytes")
        if self._receiver is None:
            self._receiver = Receiver(self._produce)
        return self._receiver.read()

    async def _produce(self, send: Send) -> None:
        offset = 0 if self._partial is None else self._partial.size

        async def take(piece: bytes) -> None:
            if self._partial is not None:
                self._partial.append(piece)
            await send(piece)

        async with self._place.client() as client:
            await Name(client).blob(self.descriptor, offset, take)

    def finish(self) -> None:
        """As of a `Blob`; what was received of another blob is not kept."""
        try:
            super().finish()
        except InputError:
            if self._partial is not None:
                self._partial.discard()
            raise

    def interrupt(self) -> None:
        """Give up the download."""
        self._interrupted = True
        if self._receiver is not None:
            self._receiver.interrupt()

    def stored(self, diff_id: str) -> bytes | None:
        """See `Blob.stored`."""
        return None if self._partial is None else self._partial.layer(diff_id)

    def remember(self, diff_id: str, stream: bytes) -> None:
        """See `Blob.remember`."""
        if self._partial is not None:
            self._partial.complete(diff_id, stream)

    def close(self) -> None:
        """End the download."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._partial is not None:
            self._partial.close()


def list_tags(reference: RegistryReference, access: Access) -> list[str]:
    """The tags of a name, in the first registry that has it. NotFoundError, TransportError."""
    errors: list[CfsError] = []
    for _, endpoints in resolve(RegistriesConf.load(), reference):
        try:
            return RegistryPlace(endpoints[-1], access).run(operator.methodcaller("tags"))
        except CfsError as error:
            errors.append(error)
    raise next((e for e in errors if not isinstance(e, NotFoundError)), errors[-1])


def check_login(host: str, found: Credentials, access: Access) -> None:
    """Ask the registry `host` whether it takes the credentials; TransportError where not."""
    reference = RegistryReference(host, "", None, None)
    endpoint = RegistriesConf.load().endpoints(reference)[-1]
    place = RegistryPlace(endpoint, access)
    place.authorization.credentials = found

    async def ask(name: Name) -> None:
        await ping(name.client)

    place.run(ask)
