"""registries.conf(5): which registry a name means, its mirrors, what is blocked or insecure.

Read are, later ones winning: `/etc/containers/registries.conf` and `registries.conf.d/*.conf`, or
the user's own `~/.config/containers/registries.conf` in place of the first; then the user's
`registries.conf.d`. $CONTAINERS_REGISTRIES_CONF names one file in place of all. Of version 1 of the
format nothing is taken.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cfsrepo.errors import InputError, NotFoundError, UsageError
from cfsrepo.oci.transports.reference import (
    DEFAULT_REGISTRY,
    RegistryReference,
    parse_registry_reference,
)

_FILE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask for an image: a host, the image's name there, and whether TLS may be amiss."""

    host: str
    path: str
    insecure: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.host}/{self.path}"


@dataclass(frozen=True, slots=True)
class _Registry:
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[tuple[str, bool, str], ...]
    """(location, insecure, pull-from-mirror)"""

    def matches(self, name: str) -> bool:
        prefix = self.prefix
        if prefix.startswith("*."):
            host = name.partition("/")[0]
            return host.endswith(prefix[1:])
        return name == prefix or name.startswith((f"{prefix}/", f"{prefix}:", f"{prefix}@"))

    def rewritten(self, name: str, location: str) -> str:
        """`name` with the prefix replaced by `location`."""
        if self.prefix.startswith("*."):
            return location + name[len(name.partition("/")[0]) :] if location else name
        return location + name[len(self.prefix) :]


@dataclass(slots=True)
class RegistriesConf:
    """What the files say."""

    search: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    registries: dict[str, _Registry] = field(default_factory=dict)

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ, root: str = "/") -> RegistriesConf:
        """Read the files there are. InputError where one is damaged."""
        conf = cls()
        for path in _files(environment, root):
            conf._read(path)
        return conf

    def candidates(self, reference: RegistryReference) -> list[RegistryReference]:
        """The full names that a reference may mean, in the order in which to try them."""
        if reference.host:
            return [reference]
        alias = self.aliases.get(reference.path)
        if alias is not None:
            found = parse_registry_reference(alias, bare=False)
            return [RegistryReference(found.host, found.path, reference.tag, reference.digest)]
        return [reference.with_host(host) for host in self.search or [DEFAULT_REGISTRY]]

    def endpoints(self, reference: RegistryReference) -> list[Endpoint]:
        """Where to ask for the image, mirrors first; UsageError where it is blocked."""
        name = f"{reference.host}/{reference.path}"
        matching = [item for item in self.registries.values() if item.matches(name)]
        if not matching:
            return [Endpoint(reference.host, reference.path)]
        registry = max(matching, key=lambda item: len(item.prefix))
        if registry.blocked:
            raise UsageError(
                f"{reference}: the registry is blocked",
                hint=f"registries.conf says so of '{registry.prefix}'",
            )
        found = []
        for location, insecure, kind in registry.mirrors:
            if kind == "all" or (kind == "digest-only") == (reference.digest is not None):
                found.append(_endpoint(registry.rewritten(name, location), insecure))
        own = registry.rewritten(name, registry.location) if registry.location else name
        return [*found, _endpoint(own, registry.insecure)]

    def _read(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                data = file.read(_FILE_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            return
        if len(data) > _FILE_MAX:
            raise InputError(f"{path}: over {_FILE_MAX} bytes")
        try:
            document = tomllib.loads(data.decode())
        except ValueError as error:
            raise InputError(f"{path}: no TOML: {error}") from error
        search = document.get("unqualified-search-registries")
        if search is not None:
            self.search = [_text(item, path, "unqualified-search-registries") for item in search]
        aliases = document.get("aliases")
        if isinstance(aliases, dict):
            for name, target in aliases.items():
                if target:
                    self.aliases[name] = _text(target, path, "aliases")
                else:
                    self.aliases.pop(name, None)
        registries = document.get("registry") or []
        if not isinstance(registries, list):
            raise InputError(f"{path}: registry is no list of tables")
        for item in registries:
            registry = _registry(item, path)
            self.registries[registry.prefix] = registry


def resolve(
    conf: RegistriesConf, reference: RegistryReference
) -> list[tuple[RegistryReference, list[Endpoint]]]:
    """For each full name that `reference` may mean, the places to ask for it."""
    found = [(full, conf.endpoints(full)) for full in conf.candidates(reference)]
    if not found:
        raise NotFoundError(f"{reference}: no registry to look in")
    return found


def _endpoint(name: str, insecure: bool) -> Endpoint:
    host, _, path = name.partition("/")
    return Endpoint(host, path, insecure)


def _files(environment: Mapping[str, str], root: str) -> list[str]:
    if chosen := environment.get("CONTAINERS_REGISTRIES_CONF"):
        return [chosen]
    system = os.path.join(root, "etc/containers")
    own = environment.get("XDG_CONFIG_HOME")
    if not own and (home := environment.get("HOME")):
        own = os.path.join(home, ".config")
    main = os.path.join(system, "registries.conf")
    directories = [system]
    if own:
        own = os.path.join(own, "containers")
        directories.append(own)
        if os.path.exists(os.path.join(own, "registries.conf")):
            main = os.path.join(own, "registries.conf")
    files = [main]
    for directory in directories:
        directory = os.path.join(directory, "registries.conf.d")
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        files += [os.path.join(directory, name) for name in names if name.endswith(".conf")]
    return files


def _registry(item: Any, path: str) -> _Registry:
    if not isinstance(item, dict):
        raise InputError(f"{path}: registry is no table")
    location = _text(item.get("location", ""), path, "location")
    prefix = _text(item.get("prefix", "") or location, path, "prefix")
    if not prefix:
        raise InputError(f"{path}: a registry without prefix and location")
    mirrors = []
    only_digests = bool(item.get("mirror-by-digest-only", False))
    for mirror in item.get("mirror") or []:
        if not isinstance(mirror, dict):
            raise InputError(f"{path}: mirror is no table")
        kind = _text(mirror.get("pull-from-mirror", "all"), path, "pull-from-mirror")
        where = _text(mirror.get("location"), path, "location of a mirror")
        mirrors.append(
            (where, bool(mirror.get("insecure")), "digest-only" if only_digests else kind)
        )
    return _Registry(
        prefix,
        location,
        bool(item.get("insecure")),
        bool(item.get("blocked")),
        tuple(mirrors),
    )


def _text(value: object, path: str, key: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}: {key} is no string")
    return value
