"""How an image is to be mounted: the choices of `cfs mount`, as flags or as `-o` of fstab."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from cfsfuse.connection import KERNEL_OPTIONS
from cfsrepo.errors import UsageError
from cfsrepo.images.owners import AS_IN_IMAGE, Owners, parse_idmap
from cfsrepo.images.verified import Verify

# What fstab and mount(8) may add and the mount itself has nothing to do with.
_IGNORED = frozenset(
    {
        "auto",
        "defaults",
        "noauto",
        "nofail",
        "nouser",
        "owner",
        "relatime",
        "noatime",
        "user",
        "users",
        "_netdev",
    }
)
_IGNORED_PREFIXES = ("x-", "X-", "comment=")
_ID_MAX = (1 << 32) - 1


class Engine(StrEnum):
    """Which server answers the kernel."""

    DIRECT = "direct"  # ours: cfsfuse.server
    PYFUSE3 = "pyfuse3"  # libfuse through pyfuse3: cfsfuse.operations


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The choices for a FUSE mount."""

    engine: Engine = Engine.DIRECT
    verify: Verify = Verify.AUTO
    kernel: tuple[str, ...] = ()
    """Options for the kernel, of `KERNEL_OPTIONS`."""
    owners: Owners = AS_IN_IMAGE
    subdir: bytes = b""
    repository: str | None = None

    @property
    def shared(self) -> bool:
        """Whether users other than the one who mounts can use the mount."""
        return "allow_other" in self.kernel or "allow_root" in self.kernel


def parse(options: Iterable[str], start: MountOptions | None = None) -> MountOptions:
    """`start` with the comma-separated `options` (`-o A,B=C`) applied. Raises `UsageError`."""
    result = MountOptions() if start is None else start
    for option in split(options):
        key, equals, value = option.partition("=")
        if option in KERNEL_OPTIONS:
            result = with_kernel(result, option)
        elif option == "enforce_permissions":
            result = with_kernel(result, "default_permissions")
        elif option == "fuse":
            continue
        elif option == "rw":
            raise UsageError("-o rw: an image cannot be written to")
        elif is_ignored(option):
            continue
        elif not equals:
            raise UsageError(f"-o {option}: unknown option")
        else:
            result = _with_value(result, key, value)
    return result


def with_kernel(options: MountOptions, name: str) -> MountOptions:
    """`options` with one more for the kernel."""
    return replace(options, kernel=(*(old for old in options.kernel if old != name), name))


def _with_value(options: MountOptions, key: str, value: str) -> MountOptions:
    if key == "verify":
        return replace(options, verify=_choice(Verify, key, value))
    if key == "engine":
        return replace(options, engine=_choice(Engine, key, value))
    if key == "uid":
        return replace(options, owners=replace(options.owners, uid=_id(key, value)))
    if key == "gid":
        return replace(options, owners=replace(options.owners, gid=_id(key, value)))
    if key == "idmap":
        uids, gids = parse_idmap(value)
        return replace(options, owners=replace(options.owners, uid_ranges=uids, gid_ranges=gids))
    if key == "subdir":
        return replace(options, subdir=value.encode(errors="surrogateescape"))
    if key == "repo":
        return replace(options, repository=value)
    raise UsageError(f"-o {key}={value}: unknown option")


def is_ignored(option: str) -> bool:
    """Whether an option of fstab or mount(8) has nothing to do with the mount itself."""
    return option in _IGNORED or option.startswith(_IGNORED_PREFIXES)


def split(options: Iterable[str]) -> Iterable[str]:
    """The options of comma lists; `\\,` is a comma inside a value."""
    for text in options:
        for part in text.replace("\\,", "\0").split(","):
            if part:
                yield part.replace("\0", ",")


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(kind: type[_Choice], key: str, value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise UsageError(f"{key}={value}: not one of {known}") from None


def _id(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > _ID_MAX:
        raise UsageError(f"{key}={value}: not a number from 0 to {_ID_MAX}")
    return int(value)
