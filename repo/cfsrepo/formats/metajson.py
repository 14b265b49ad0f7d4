"""`meta.json`: what a repository is. Reading and writing as bytes; no file is touched here.

    {
      "version": 1,
      "algorithm": "fsverity-sha256-12",
      "features": {"compatible": [], "read-only-compatible": ["v1_erofs"], "incompatible": []},
      "erofs_formats": {"default": 1, "extra": [2]}
    }

Features follow ext4's model: an unknown `compatible` one is ignored, an unknown
`read-only-compatible` one allows reading only, an unknown `incompatible` one and a higher version
refuse the repository. `erofs_formats` says the versions of the images that are made; without it,
`v1_erofs` means 1 and its absence 2. Fields that are not known are ignored.

Reference: module `repository_format` of the crate `composefs`. Written byte for byte as cfsctl
does, which compares when a repository is initialised again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.fsverity import Algorithm

FILE_NAME: Final = "meta.json"
VERSION: Final = 1
V1_EROFS: Final = "v1_erofs"
_KNOWN_READ_ONLY: Final = frozenset({V1_EROFS})
_KNOWN_INCOMPATIBLE: Final[frozenset[str]] = frozenset()
_EROFS_VERSIONS: Final = frozenset({0, 1, 2})


@dataclass(frozen=True, slots=True)
class Features:
    """The three lists of feature flags."""

    compatible: tuple[str, ...] = ()
    read_only_compatible: tuple[str, ...] = ()
    incompatible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RepositoryMeta:
    """The content of a meta.json that was found acceptable."""

    algorithm: Algorithm = Algorithm.SHA256
    version: int = VERSION
    features: Features = field(default_factory=lambda: Features(read_only_compatible=(V1_EROFS,)))
    erofs_default: int = 1
    """Version of the images that get the names."""
    erofs_extra: tuple[int, ...] = ()
    """Versions that are made in addition."""

    @property
    def read_only_reasons(self) -> list[str]:
        """Features because of which this program must not write; empty: it may."""
        return [f for f in self.features.read_only_compatible if f not in _KNOWN_READ_ONLY]

    def to_json(self) -> bytes:
        """As cfsctl writes it."""
        formats: dict[str, object] = {"default": self.erofs_default}
        if self.erofs_extra:
            formats["extra"] = list(self.erofs_extra)
        value = {
            "version": self.version,
            "algorithm": str(self.algorithm),
            "features": {
                "compatible": list(self.features.compatible),
                "read-only-compatible": list(self.features.read_only_compatible),
                "incompatible": list(self.features.incompatible),
            },
            "erofs_formats": formats,
        }
        return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def parse(data: bytes, path: str) -> RepositoryMeta:
    """Read a meta.json found at `path`; `RepositoryError` where it is damaged or too new."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, "no JSON object")
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise _damaged(path, "no version")
    if version > VERSION:
        raise RepositoryError(
            f"{path}: repository version {version}, this program knows {VERSION}",
            hint="use a newer program",
        )
    try:
        algorithm = Algorithm(str(value.get("algorithm")))
    except ValueError:
        known = ", ".join(Algorithm)
        raise RepositoryError(
            f"{path}: digest algorithm {value.get('algorithm')!r} is not supported",
            hint=f"known: {known}",
        ) from None
    features = _features(value.get("features", {}), path)
    unknown = [f for f in features.incompatible if f not in _KNOWN_INCOMPATIBLE]
    if unknown:
        raise RepositoryError(
            f"{path}: the repository uses features unknown here: {', '.join(unknown)}",
            hint="use a newer program",
        )
    default, extra = _erofs_formats(value.get("erofs_formats"), features, path)
    return RepositoryMeta(algorithm, version, features, default, extra)


def _features(value: object, path: str) -> Features:
    if not isinstance(value, dict):
        raise _damaged(path, "features is not an object")
    lists = []
    for key in ("compatible", "read-only-compatible", "incompatible"):
        flags = value.get(key, [])
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise _damaged(path, f"features: {key} is not a list of strings")
        lists.append(tuple(flags))
    return Features(*lists)


def _erofs_formats(value: object, features: Features, path: str) -> tuple[int, tuple[int, ...]]:
    versions: list[Any]
    if value is None:
        versions = [2]
    elif isinstance(value, dict) and isinstance(extra := value.get("extra", []), list):
        versions = [value.get("default"), *extra]
    else:
        raise _damaged(path, "erofs_formats is not an object")
    if not all(type(version) is int and version in _EROFS_VERSIONS for version in versions):
        raise _damaged(path, "erofs_formats names a version that is not known")
    # The flag decides where the field says what its absence means.
    if versions == [2] and V1_EROFS in features.read_only_compatible:
        versions = [1]
    return versions[0], tuple(versions[1:])


def _damaged(path: str, reason: str) -> RepositoryError:
    return RepositoryError(f"{path}: damaged: {reason}")
