"""What a kernel mount is asked to be, by flags of `cfs mount` or by `-o` as in fstab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

from cfsfuse.options import is_ignored, split
from cfsrepo.errors import UsageError
from cfsrepo.kernel import kernelmount
from cfsrepo.kernel.kernelmount import Upper
from cfstools.options import Arguments


class Helper(StrEnum):
    """Who makes the mount."""

    AUTO = "auto"
    """Ourselves, since no other program gives the mount the image's name; mount.composefs where
    this kernel is too old for us and that is installed."""
    MOUNT_COMPOSEFS = "mount.composefs"
    BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class Request:
    """The choices for a kernel mount."""

    repository: str | None = None
    require_verity: bool | None = None
    """None: as the repository's policy and the image file have it."""
    digest: str | None = None
    in_memory: bool = False
    upper: str | None = None
    work: str | None = None
    read_only: bool = False
    idmap: str | None = None
    helper: Helper = Helper.AUTO
    attributes: frozenset[str] = frozenset()

    @property
    def layers(self) -> Upper | None:
        """Upper and work directory, absolute."""
        if self.upper is None or self.work is None:
            return None
        return Upper(os.path.abspath(self.upper), os.path.abspath(self.work))

    def check(self) -> None:
        """`UsageError` for choices that contradict each other."""
        if (self.upper is None) != (self.work is None):
            raise UsageError("--upper and --work belong together", hint="give both or none")
        if self.in_memory and self.upper is not None:
            raise UsageError("--rw keeps changes in memory, --upper in a directory")


# Options that only one of the two kinds of mount has, by what they are called in `-o`.
_KERNEL_KEYS: Final = frozenset(
    {"kernel", "verity", "noverity", "digest", "upperdir", "workdir", "helper", "memory", "rw"}
)
_FUSE_KEYS: Final = frozenset(
    {
        *("fuse", "allow_other", "allow_root", "enforce_permissions", "verify", "uid", "gid"),
        *("subdir", "engine"),
    }
)


def wanted(args: Arguments) -> bool:
    """Whether `args` ask for a kernel mount. `UsageError` for options that exclude each other."""
    words = [word.partition("=")[0] for word in split(args.options)]
    fuse = [name for name, given in _fuse_flags(args) if given]
    fuse += [f"-o {word}" for word in words if word in _FUSE_KEYS]
    kernel = [name for name, given in _kernel_flags(args) if given]
    kernel += [f"-o {word}" for word in words if word in _KERNEL_KEYS]
    if fuse and kernel:
        raise UsageError(
            f"{fuse[0]} is for FUSE mounts, {kernel[0]} for kernel mounts",
            hint="give only one of them",
        )
    return bool(kernel) or (not fuse and os.geteuid() == 0)


def _fuse_flags(args: Arguments) -> Iterator[tuple[str, bool]]:
    for name in ("fuse", "foreground", "enforce_permissions"):
        yield f"--{name.replace('_', '-')}", getattr(args, name)
    for name in ("objects", "verify", "uid", "gid", "subdir", "engine", "log"):
        yield f"--{name}", getattr(args, name) is not None


def _kernel_flags(args: Arguments) -> Iterator[tuple[str, bool]]:
    for name in ("kernel", "rw", "read_only"):
        yield f"--{name.replace('_', '-')}", getattr(args, name)
    for name in ("require_verity", "digest", "upper", "work", "helper"):
        yield f"--{name.replace('_', '-')}", getattr(args, name) is not None


def from_arguments(args: Arguments) -> Request:
    """The request of `cfs mount`; flags win over `-o`. Raises `UsageError`."""
    request = Request()
    for word in split(args.options):
        request = _with_option(request, word)
    request = replace(
        request,
        require_verity=_first(args.require_verity, request.require_verity),
        digest=_first(args.digest, request.digest),
        upper=_first(args.upper, request.upper),
        work=_first(args.work, request.work),
        idmap=_first(args.idmap, request.idmap),
        in_memory=args.rw or request.in_memory,
        read_only=args.read_only or request.read_only,
        helper=request.helper if args.helper is None else Helper(args.helper),
    )
    if request.upper is not None and args.rw is False:
        request = replace(request, in_memory=False)  # `-o rw,upperdir=` is how mount(8) says it
    request.check()
    return request


def _with_option(request: Request, word: str) -> Request:
    key, _, value = word.partition("=")
    if word in kernelmount.ATTRIBUTES:
        return replace(request, attributes=request.attributes | {word})
    if word == "ro":
        return replace(request, read_only=True)
    if word in ("rw", "memory"):
        return replace(request, in_memory=True, read_only=False)
    if word in ("verity", "noverity"):
        return replace(request, require_verity=word == "verity")
    if word in ("kernel", "suid", "dev", "exec", "atime") or is_ignored(word):
        return request
    if key == "helper" and value in list(Helper):
        return replace(request, helper=Helper(value))
    if not value:
        raise _unknown(word)
    match key:
        case "digest":
            return replace(request, digest=value)
        case "upperdir":
            return replace(request, upper=value)
        case "workdir":
            return replace(request, work=value)
        case "idmap":
            return replace(request, idmap=value)
        case "repo":
            return replace(request, repository=value)
    raise _unknown(word)


def _unknown(word: str) -> UsageError:
    return UsageError(f"-o {word}: unknown option of a kernel mount")


_Value = TypeVar("_Value")


def _first(flag: _Value | None, option: _Value | None) -> _Value | None:
    return option if flag is None else flag
