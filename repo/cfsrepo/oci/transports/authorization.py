"""Who we are for a registry: challenges (RFC 9110), basic authentication, and bearer tokens.

Reference: "Docker Registry v2 authentication" of the distribution project. A registry answers 401
and says in `WWW-Authenticate` what it wants: `Basic`, or `Bearer` with the address (realm) of a
service that gives tokens for a scope. Tokens are kept for the operation; one that expired is got
anew when the registry refuses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from cfsrepo.errors import TransportError, printable
from cfsrepo.oci.transports.credentials import Credentials

TOKEN_MAX: Final = 1 << 20  # bytes of a token service's answer

_CHALLENGE = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9._~+/-]*)(?:\s+|$)(?=[^=]|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

Fetch = Callable[[str, str, dict[str, str], bytes | None], Awaitable[tuple[int, bytes]]]
"""(method, address, headers, body) -> (status, body of the answer)"""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants: a scheme in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str]


@dataclass(slots=True)
class Authorization:
    """What was found out for one registry. Values only, so that it survives a fork."""

    host: str
    credentials: Credentials | None
    tls: bool = True
    """Requests go by TLS: then a password is never sent without."""
    basic: bool = False
    tokens: dict[str, str] = field(default_factory=dict)
    """Scope -> token."""

    def header(self, scope: str) -> str | None:
        """The value of `Authorization` for a request, None before the registry asked for one."""
        if self.basic and self.credentials is not None:
            return self.credentials.basic()
        token = self.tokens.get(scope)
        return f"Bearer {token}" if token is not None else None

    async def answer(self, challenges: list[Challenge], scope: str, fetch: Fetch) -> None:
        """Get what the registry wants for `scope`. TransportError where that cannot be."""
        bearer = next((item for item in challenges if item.scheme == "bearer"), None)
        if bearer is not None:
            self.basic = False
            self.tokens[scope] = await self._token(bearer, scope, fetch)
            return
        if any(item.scheme == "basic" for item in challenges):
            if self.credentials is None or not self.credentials.user:
                raise self._login(f"{self.host}: wants a user and a password")
            if self.basic:
                raise self._login(f"{self.host}: refuses this user or password")
            self.basic = True
            return
        raise TransportError(f"{self.host}: asks for an unknown way to log in")

    async def _token(self, challenge: Challenge, scope: str, fetch: Fetch) -> str:
        realm = challenge.parameters.get("realm", "")
        address = urlsplit(realm)
        if address.scheme not in ("http", "https") or not address.netloc or address.username:
            raise TransportError(f"{self.host}: a token service without address: {realm[:200]}")
        if self.tls and address.scheme != "https":
            raise TransportError(
                f"{self.host}: its token service {address.netloc} is not reached by TLS",
                hint="nothing was sent there",
            )
        fields = [("scope", part) for part in scope.split(" ") if part]
        if service := challenge.parameters.get("service"):
            fields.insert(0, ("service", service))
        headers = {}
        if self.credentials is not None and not self.credentials.user:
            fields += [("grant_type", "refresh_token"), ("client_id", "cfs")]
            fields.append(("refresh_token", self.credentials.secret))
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(fields).encode()
            status, data = await fetch("POST", realm, headers, body)
        else:
            if self.credentials is not None:
                headers["Authorization"] = self.credentials.basic()
            mark = "&" if address.query else "?"
            status, data = await fetch("GET", f"{realm}{mark}{urlencode(fields)}", headers, None)
        return self._parse(status, data, address.netloc)

    def _parse(self, status: int, data: bytes, service: str) -> str:
        if status in (401, 403):
            raise self._login(f"{self.host}: {service} gives no token (status {status})")
        if status != 200:
            raise TransportError(f"{self.host}: {service} gives no token (status {status})")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise TransportError(f"{service}: its answer is no JSON") from error
        token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else 0
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise TransportError(f"{service}: an answer without a token")
        return token

    def _login(self, message: str) -> TransportError:
        return TransportError(message, hint=f"log in: cfs login {self.host}")


def parse_challenges(values: list[str]) -> list[Challenge]:
    """The challenges in the values of `WWW-Authenticate`; what is none is left out."""
    found = []
    for value in values:
        at = 0
        while (match := _CHALLENGE.match(value, at)) is not None:
            at = match.end()
            parameters = {}
            while (parameter := _PARAMETER.match(value, at)) is not None:
                at = parameter.end()
                quoted, plain = parameter[2], parameter[3]
                text = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                parameters[parameter[1].lower()] = printable(text)
            found.append(Challenge(match[1].lower(), parameters))
    return found
