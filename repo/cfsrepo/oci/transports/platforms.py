"""Which image of several is meant: indexes, also within indexes, and platforms."""

from __future__ import annotations

import platform as host

from cfsrepo.errors import InputError, LimitError, NotFoundError, UsageError
from cfsrepo.oci.documents import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Platform,
    parse_config,
    parse_index,
    parse_manifest,
)
from cfsrepo.oci.transports.blob import ImageSource, read_document

_DEPTH_MAX = 8  # of indexes within indexes
_CANDIDATES_MAX = 1024

# machine of uname(2) -> Go's architecture, variant
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}


def own_platform() -> Platform:
    """The platform of this machine."""
    machine = host.machine()
    return Platform("linux", *_ARCHITECTURES.get(machine, (machine, "")))


def parse_platform(text: str) -> Platform:
    """`[OS/]ARCHITECTURE[/VARIANT]`, as `--platform` takes it; UsageError."""
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"{text}: no platform", hint="for example linux/arm64 or linux/arm/v7")
    return Platform(*parts)


def manifests(source: ImageSource, found: list[Descriptor]) -> list[Descriptor]:
    """All manifests that `found` leads to, in order, through indexes within indexes."""
    result: list[Descriptor] = []
    stack = [(item, 0) for item in reversed(found)]
    seen: set[str] = set()
    while stack:
        item, depth = stack.pop()
        if item.digest in seen:
            continue
        seen.add(item.digest)
        if len(seen) > _CANDIDATES_MAX or depth > _DEPTH_MAX:
            raise LimitError(f"{source.name}: too many indexes within indexes")
        name = f"{source.name}: {item.digest}"
        if item.media_type in MANIFEST_TYPES:
            result.append(item)
        elif item.media_type in INDEX_TYPES:
            nested = parse_index(source.read_manifest(item), name)
            stack.extend((child, depth + 1) for child in reversed(nested))
        else:
            raise InputError(f"{name}: unknown type {item.media_type or '(none)'}")
    return result


def choose(source: ImageSource, platform: Platform | None = None) -> Descriptor:
    """The manifest of the source's image for `platform` (None: this machine's).

    An image for one platform only is taken whatever that is, unless a platform was asked for.
    NotFoundError where there is none for the platform.
    """
    candidates = manifests(source, source.find())
    if not candidates:
        raise NotFoundError(f"{source.name}: an index without images")
    if len(candidates) == 1 and platform is None:
        return candidates[0]
    wanted = platform or own_platform()
    matching = []
    others = []
    for item in candidates:
        found = item.platform or _platform_of(source, item)
        if found is None:
            continue
        if (found.os, found.architecture) != (wanted.os, wanted.architecture) or (
            platform is not None and platform.variant and platform.variant != found.variant
        ):
            others.append(str(found))
        else:
            matching.append((found.variant not in ("", wanted.variant), item))
    if not matching:
        raise NotFoundError(
            f"{source.name}: no image for {wanted}",
            hint=f"there is {', '.join(sorted(set(others))[:8])}" if others else None,
        )
    return min(matching, key=lambda pair: pair[0])[1]


def _platform_of(source: ImageSource, item: Descriptor) -> Platform | None:
    """The platform that the configuration of a manifest says; None for an artifact."""
    name = f"{source.name}: manifest {item.digest}"
    manifest = parse_manifest(source.read_manifest(item), name)
    data = read_document(source, manifest.config)
    return parse_config(data, f"{source.name}: {manifest.config.digest}").platform
