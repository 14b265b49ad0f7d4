"""Credentials for registries: containers-auth.json(5), Docker's configuration, helper programs.

Files, the first that has something for the image decides: `--authfile` or $REGISTRY_AUTH_FILE
alone; else `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json` and
`~/.docker/config.json` ($DOCKER_CONFIG). Keys are a host or a host with the beginning of a name;
the longest that fits counts. `credHelpers` and `credsStore` name programs `docker-credential-NAME`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cfsrepo.errors import InputError, NotFoundError, TransportError, UsageError
from cfsrepo.oci.transports.reference import DEFAULT_REGISTRY

_FILE_MAX: Final = 4 << 20
_HELPER_SECONDS: Final = 60
_TOKEN_USER: Final = "<token>"  # noqa: S105 - how helpers mark an identity token
# Under these keys Docker keeps the credentials of the default registry.
_OLD_KEYS: Final = {
    DEFAULT_REGISTRY: ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and password, or an identity token (with an empty user)."""

    user: str
    secret: str

    def basic(self) -> str:
        """The value of an `Authorization` header."""
        text = f"{self.user}:{self.secret}".encode()
        return f"Basic {base64.b64encode(text).decode()}"


def find(
    host: str, path: str, authfile: str | None, environment: Mapping[str, str] = os.environ
) -> Credentials | None:
    """What there is for the image `host/path`; None for an anonymous request."""
    for file in _files(authfile, environment):
        document = _read(file)
        if document is not None and (found := _lookup(document, host, path, file)) is not None:
            return found
    return None


def store(
    host: str, found: Credentials, authfile: str | None, environment: Mapping[str, str] = os.environ
) -> str:
    """Keep the credentials of `host`; returns where. Others may not read the file."""
    file = _own_file(authfile, environment)
    document = _read(file) or {}
    helper = _helper(document, host)
    if helper is not None:
        request = {"ServerURL": host, "Username": found.user, "Secret": found.secret}
        _run_helper(helper, "store", json.dumps(request))
        return f"docker-credential-{helper}"
    auth = base64.b64encode(f"{found.user}:{found.secret}".encode()).decode()
    auths = document.get("auths")
    document["auths"] = {**(auths if isinstance(auths, dict) else {}), host: {"auth": auth}}
    _write(file, document)
    return file


def remove(host: str, authfile: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Forget the credentials of `host`; returns where they were. NotFoundError."""
    file = _own_file(authfile, environment)
    document = _read(file) or {}
    helper = _helper(document, host)
    if helper is not None:
        _run_helper(helper, "erase", host)
        return f"docker-credential-{helper}"
    auths = document.get("auths")
    if not isinstance(auths, dict) or host not in auths:
        raise NotFoundError(f"{host}: not logged in", hint=f"{file} has no credentials for it")
    del auths[host]
    _write(file, document)
    return file


def _files(authfile: str | None, environment: Mapping[str, str]) -> list[str]:
    chosen = authfile or environment.get("REGISTRY_AUTH_FILE")
    if chosen:
        return [chosen]
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    docker = environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    return [
        _own_file(None, environment),
        os.path.join(config, "containers", "auth.json"),
        os.path.join(docker, "config.json"),
    ]


def _own_file(authfile: str | None, environment: Mapping[str, str]) -> str:
    """The file that a login writes."""
    chosen = authfile or environment.get("REGISTRY_AUTH_FILE")
    if chosen:
        return chosen
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "containers", "auth.json")
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return os.path.join(config, "containers", "auth.json")


def _read(file: str) -> dict[str, Any] | None:
    try:
        with open(file, "rb") as opened:
            data = opened.read(_FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        document = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{file}: no JSON object")
    return document


def _write(file: str, document: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(file)), mode=0o700, exist_ok=True)
    temporary = f"{file}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as opened:
            json.dump(document, opened, indent=2)
            opened.write("\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.rename(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _lookup(document: dict[str, Any], host: str, path: str, file: str) -> Credentials | None:
    helper = _helper(document, host)
    if helper is not None and (found := _ask(helper, host)) is not None:
        return found
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return None
    parts = path.split("/") if path else []
    keys = ["/".join([host, *parts[:count]]) for count in range(len(parts), -1, -1)]
    for key in (*keys, f"https://{host}", f"http://{host}", *_OLD_KEYS.get(host, ())):
        entry = auths.get(key)
        if isinstance(entry, dict) and (found := _decode(entry, f"{file}: {key}")) is not None:
            return found
    return None


def _decode(entry: dict[str, Any], name: str) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials("", token)
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            user, colon, secret = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InputError(f"{name}: auth is not base64 of USER:PASSWORD") from error
        return Credentials(user, secret.rstrip("\0")) if colon else None
    account, password = entry.get("username"), entry.get("password")
    if isinstance(account, str) and isinstance(password, str) and account:
        return Credentials(account, password)
    return None


def _helper(document: dict[str, Any], host: str) -> str | None:
    helpers = document.get("credHelpers")
    name: object = helpers.get(host) if isinstance(helpers, dict) else None
    name = name or document.get("credsStore")
    if not isinstance(name, str) or not name:
        return None
    if "/" in name:
        raise UsageError(f"{name}: not the name of a credential helper")
    return name


def _ask(helper: str, host: str) -> Credentials | None:
    for server in (host, *_OLD_KEYS.get(host, ())[:1]):
        try:
            answer = json.loads(_run_helper(helper, "get", server) or "null")
        except ValueError as error:
            raise TransportError(f"docker-credential-{helper}: its answer is no JSON") from error
        if isinstance(answer, dict):
            user, secret = answer.get("Username"), answer.get("Secret")
            if isinstance(user, str) and isinstance(secret, str) and secret:
                return Credentials("" if user == _TOKEN_USER else user, secret)
    return None


def _run_helper(helper: str, verb: str, text: str) -> str:
    """The helper's answer; empty where it has no credentials."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb],
            input=text,
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise TransportError(
            f"{program}: not installed", hint="the credentials' file names it as a helper"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise TransportError(f"{program}: no answer in {_HELPER_SECONDS} s") from error
    if done.returncode:
        if "not found" in done.stdout + done.stderr:
            return ""
        reason = (done.stdout or done.stderr).strip().splitlines()
        raise TransportError(f"{program} {verb}: {reason[0] if reason else 'failed'}")
    return done.stdout
