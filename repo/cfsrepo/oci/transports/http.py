"""HTTP for registries: TLS or not, log in, redirects, retries. Runs in trio.

What a registry does is never trusted: answers are read up to a limit, in bounded time; a redirect
to another host gets no credentials, and none leads from TLS to plain HTTP.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx2
import trio

from cfsrepo.errors import CfsError, LimitError, NotFoundError, TransportError, printable
from cfsrepo.oci.transports import certificates
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.authorization import TOKEN_MAX, Authorization, parse_challenges
from cfsrepo.oci.transports.reference import DEFAULT_REGISTRY
from cfsrepo.oci.transports.registriesconf import Endpoint

DEFAULT_HOST: Final = "registry-1.docker.io"
"""Where the default registry is served."""
_ATTEMPTS: Final = 5
_REDIRECTS_MAX: Final = 5
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_MAX: Final = 64 << 10
_REASON_MAX: Final = 200

BACKOFF = 0.5
"""Seconds before the first retry; each further one waits twice as long."""
BACKOFF_MAX = 60.0
"""Seconds to wait at most, whatever `Retry-After` asks for."""
STALL = 30.0
"""Seconds without a byte after which a connection is given up."""
DOCUMENT_TIME = 120.0
"""Seconds for a whole answer that is read into memory."""


class Client:
    """Requests to one registry. An async context manager; cheap until the first request."""

    def __init__(
        self,
        endpoint: Endpoint,
        access: Access,
        authorization: Authorization,
        contexts: dict[bool, ssl.SSLContext] | None = None,
    ) -> None:
        """`contexts` is shared by the clients of a registry: what they trust is read once."""
        self.endpoint = endpoint
        self.access = access
        self.authorization = authorization
        self.insecure = endpoint.insecure or not access.tls_verify
        self._stack = contextlib.AsyncExitStack()
        self._contexts = {} if contexts is None else contexts
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def base(self) -> str:
        """The address that all paths are below."""
        host = self.endpoint.host
        host = DEFAULT_HOST if host == DEFAULT_REGISTRY else host
        return f"{'https' if self.authorization.tls else 'http'}://{host}"

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        scope: str = "",
        retry: bool = True,
    ) -> AsyncIterator[httpx2.Response]:
        """The answer to a request, its body not yet read. `address` is absolute, or a path.

        Network errors and answers that ask for it are retried. A 401 after log in, or a 403, is a
        TransportError; other answers are the caller's.
        """
        response = await self._retried(method, address, dict(headers or {}), content, scope, retry)
        try:
            yield response
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await response.aclose()

    async def read(self, response: httpx2.Response, limit: int, name: str) -> bytes:
        """The whole body of an answer; LimitError where it has more than `limit` bytes."""
        parts = []
        size = 0
        try:
            with trio.fail_after(DOCUMENT_TIME):
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > limit:
                        raise LimitError(f"{name}: an answer of more than {limit} bytes")
                    parts.append(part)
        except (httpx2.HTTPError, trio.TooSlowError) as error:
            raise self.broken(error, name) from error
        return b"".join(parts)

    async def refusal(self, response: httpx2.Response, name: str) -> CfsError:
        """The error that an unwanted answer amounts to."""
        status = response.status_code
        reason = ""
        with contextlib.suppress(CfsError, ValueError, RecursionError):
            answer = json.loads(await self.read(response, _ERROR_MAX, name))
            first = (answer.get("errors") or [{}])[0] if isinstance(answer, dict) else {}
            if isinstance(first, dict):
                text = f"{first.get('code') or ''}: {first.get('message') or ''}".strip(": ")
                reason = f" ({printable(text)[:_REASON_MAX]})" if text else ""
        host = self.endpoint.host
        if status == 404:
            return NotFoundError(f"{name}: {host} does not have it{reason}")
        hint = f"log in: cfs login {host}" if status in (401, 403) else None
        return TransportError(f"{name}: {host} refuses, status {status}{reason}", hint=hint)

    def broken(self, error: BaseException, name: str) -> TransportError:
        """A failed connection as an error of ours."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TransportError(
                f"{name}: the certificate of {self.endpoint.host} is not trusted: "
                f"{cause.verify_message}",
                hint="put its authority's certificate into certs.d, or use --tls-verify=false",
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return TransportError(
                f"{name}: {self.endpoint.host} does not speak TLS",
                hint="--tls-verify=false allows plain HTTP",
            )
        if isinstance(error, (httpx2.TimeoutException, trio.TooSlowError)):
            return TransportError(f"{name}: no answer from {self.endpoint.host} in time")
        reason = printable(str(error))[:_REASON_MAX] or type(error).__name__
        return TransportError(f"{name}: connection to {self.endpoint.host} failed: {reason}")

    async def pause(self, attempt: int, why: str, wanted: float | None = None) -> None:
        """Wait before the retry after `attempt` (from 0)."""
        delay = BACKOFF * 2**attempt * random.uniform(0.8, 1.2)  # noqa: S311 - spreads clients
        delay = min(delay if wanted is None else wanted, BACKOFF_MAX)
        self.access.say(f"{why}; trying again in {delay:.1f} s")
        await trio.sleep(delay)

    # --- one request -----------------------------------------------------------------------------

    async def _retried(
        self,
        method: str,
        address: str,
        headers: dict[str, str],
        content: bytes | None,
        scope: str,
        retry: bool,
    ) -> httpx2.Response:
        name = self.endpoint.name
        attempts = _ATTEMPTS if retry else 1
        for attempt in range(attempts):
            last = attempt == attempts - 1
            wanted = None
            try:
                response = await self._authorized(method, address, headers, content, scope)
            except (httpx2.TransportError, trio.TooSlowError) as error:
                failure = self.broken(error, name)
                if last or failure.hint is not None:
                    raise failure from error
                why = str(failure)
            else:
                if last or response.status_code not in _RETRIED:
                    return response
                why = f"{name}: status {response.status_code}"
                wanted = retry_after(response.headers.get("Retry-After"), time.time())
                await response.aclose()
            await self.pause(attempt, why, wanted)
        raise AssertionError("the last attempt returns or raises")

    async def _authorized(
        self, method: str, address: str, headers: dict[str, str], content: bytes | None, scope: str
    ) -> httpx2.Response:
        for _ in range(2):
            response = await self._redirected(method, address, headers, content, scope)
            if response.status_code != 401:
                break
            challenges = parse_challenges(response.headers.get_list("WWW-Authenticate"))
            await response.aclose()
            await self.authorization.answer(challenges, scope, self._fetch)
        else:
            response = await self._redirected(method, address, headers, content, scope)
        if response.status_code in (401, 403):
            try:
                raise await self.refusal(response, self.endpoint.name)
            finally:
                await response.aclose()
        return response

    async def _fetch(
        self, method: str, address: str, headers: dict[str, str], content: bytes | None
    ) -> tuple[int, bytes]:
        """A request to a token service, which is no part of the registry."""
        client = await self._client(own=self._is_own(httpx2.URL(address)))
        request = client.build_request(method, address, headers=headers, content=content)
        response = await client.send(request, stream=True)
        try:
            return response.status_code, await self.read(response, TOKEN_MAX, address[:80])
        finally:
            await response.aclose()

    async def _redirected(
        self, method: str, address: str, headers: dict[str, str], content: bytes | None, scope: str
    ) -> httpx2.Response:
        """Follow redirects; credentials go to the registry only."""
        url = httpx2.URL(address if "://" in address else self.base + address)
        for _ in range(_REDIRECTS_MAX):
            own = self._is_own(url)
            sent = dict(headers)
            if own and (value := self.authorization.header(scope)) is not None:
                sent["Authorization"] = value
            response = await self._once(method, url, sent, content, own)
            if response.status_code not in (301, 302, 303, 307, 308) or (
                method not in ("GET", "HEAD") and response.status_code not in (307, 308)
            ):
                return response
            target = response.headers.get("Location", "")
            await response.aclose()
            url = self._target(response.request.url, target)
        raise TransportError(f"{self.endpoint.name}: more than {_REDIRECTS_MAX} redirects")

    def _target(self, url: httpx2.URL, target: str) -> httpx2.URL:
        try:
            found = url.join(target)
        except httpx2.InvalidURL:
            found = None
        if found is None or not target or found.scheme not in ("http", "https") or not found.host:
            raise TransportError(
                f"{self.endpoint.name}: redirects to no address: {printable(target)[:100]}"
            )
        if url.scheme == "https" and found.scheme == "http" and not self.insecure:
            raise TransportError(
                f"{self.endpoint.name}: redirects from TLS to plain HTTP ({found.host})"
            )
        return found.copy_with(username=None, password=None, fragment=None)

    async def _once(
        self,
        method: str,
        url: httpx2.URL,
        headers: dict[str, str],
        content: bytes | None,
        own: bool,
    ) -> httpx2.Response:
        client = await self._client(own=own)
        request = client.build_request(method, url, headers=headers, content=content)
        try:
            return await client.send(request, stream=True)
        except httpx2.ConnectError as error:
            if not (own and self.insecure and self.authorization.tls and _speaks_no_tls(error)):
                raise
        self.authorization.tls = False
        self.access.say(f"{self.endpoint.host}: does not speak TLS; using plain HTTP")
        return await self._once(method, url.copy_with(scheme="http"), headers, content, own)

    def _is_own(self, url: httpx2.URL) -> bool:
        base = httpx2.URL(self.base)
        return (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)

    async def _client(self, *, own: bool) -> httpx2.AsyncClient:
        """The connections to the registry, or those to other hosts, with their own trust."""
        if (client := self._clients.get(own)) is None:
            access = self.access
            if own not in self._contexts:
                self._contexts[own] = certificates.context(
                    self.endpoint.host if own else "",
                    verify=not self.insecure,
                    cert_dir=access.cert_dir if own else None,
                )
            client = httpx2.AsyncClient(
                verify=self._contexts[own],
                timeout=httpx2.Timeout(STALL, connect=15.0),
                headers={"User-Agent": "cfs", "Accept-Encoding": "identity"},
            )
            await self._stack.enter_async_context(client)
            self._clients[own] = client
        return client


_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
)


def _speaks_no_tls(error: BaseException) -> bool:
    """Did the other side answer with something that is no TLS, or not at all on that port?"""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return cause.reason in _NO_TLS
        cause = cause.__cause__ or cause.__context__
    return "SSL" not in str(error) and "refused" not in str(error).lower()


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that `Retry-After` asks for: a number of them, or a date."""
    if value is None:
        return None
    number = value.strip()
    if number.isascii() and number.isdigit():
        return float(number[:6])
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - now)
