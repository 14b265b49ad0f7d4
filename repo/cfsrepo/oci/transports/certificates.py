"""TLS for a registry: the system's authorities, own ones and client certificates of certs.d.

containers-certs.d(5): in a directory `HOST[:PORT]`, `*.crt` are authorities, `NAME.cert` with
`NAME.key` are client certificates. Directories are looked for in `~/.config/containers/certs.d`,
`/etc/containers/certs.d` and `/etc/docker/certs.d`; the first that exists counts.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from cfsrepo.errors import InputError

_SYSTEM = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def context(
    host: str,
    *,
    verify: bool,
    cert_dir: str | None,
    environment: Mapping[str, str] = os.environ,
) -> ssl.SSLContext:
    """What a connection to `host` (with its port) trusts and shows. InputError where a file in
    certs.d is damaged."""
    found = ssl.create_default_context()
    if not verify:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    directory = cert_dir or _directory(host, environment)
    if directory is None:
        return found
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{directory}: no directory of certificates") from error
    for name in names:
        path = os.path.join(directory, name)
        try:
            if name.endswith(".crt"):
                found.load_verify_locations(path)
            elif name.endswith(".cert"):
                key = f"{path.removesuffix('.cert')}.key"
                if not os.path.exists(key):
                    raise InputError(f"{path}: its key {os.path.basename(key)} is missing")
                found.load_cert_chain(path, key)
        except ssl.SSLError as error:
            raise InputError(f"{path}: no certificate: {error.reason or error}") from error
    return found


def _directory(host: str, environment: Mapping[str, str]) -> str | None:
    own = environment.get("XDG_CONFIG_HOME")
    if not own and (home := environment.get("HOME")):
        own = os.path.join(home, ".config")
    directories = [os.path.join(own, "containers", "certs.d")] if own else []
    for directory in (*directories, *_SYSTEM):
        path = os.path.join(directory, host)
        if os.path.isdir(path):
            return path
    return None
