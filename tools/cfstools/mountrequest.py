"""What `cfs mount` is asked for, by its flags and by `-o`: a FUSE mount or one by the kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cfsrepo.errors import UsageError
from cfstools.options import Arguments, mount_options
from cfstools.options.mount_options import FLAGS, FUSE, KERNEL

if TYPE_CHECKING:
    from cfsfuse.options import MountOptions
    from cfsrepo.images.owners import Owners
    from cfsrepo.kernel.kernelmount import Upper

_ID_MAX = (1 << 32) - 1
_KERNEL_WORDS = ("allow_other",)
_SWITCHES = ("suid", "dev", "exec")


class Helper(StrEnum):
    """What makes a kernel mount."""

    AUTO = "auto"
    """Ourselves, since no other program gives the mount the image's name; mount.composefs where
    this kernel is too old for us and that is installed."""
    MOUNT_COMPOSEFS = "mount.composefs"
    BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """The choices for a kernel mount."""

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
        from cfsrepo.kernel.kernelmount import Upper

        if self.upper is None or self.work is None:
            return None
        return Upper(os.path.abspath(self.upper), os.path.abspath(self.work))


class MountRequest:
    """The options of one `cfs mount`. Raises `UsageError` for words that are none."""

    def __init__(self, args: Arguments) -> None:
        self._args = args
        self._words = mount_options.parse(args.options)

    def _value(self, name: str) -> Any:
        """A flag, else a word of `-o`; None (False of a switch) where neither was given."""
        flag = getattr(self._args, name, None)
        if flag is not None and flag is not False:
            return flag
        if name in self._words:
            return self._words[name][1]
        return flag

    @property
    def repository(self) -> str | None:
        """The path of the repository, where `-o` names one."""
        return str(self._words["repo"][1]) if "repo" in self._words else None

    @property
    def by_kernel(self) -> bool:
        """Whether a kernel mount is asked for. `UsageError` for options of both kinds."""
        fuse, kernel = self._given(FUSE), self._given(KERNEL)
        if fuse and kernel:
            raise UsageError(
                f"{fuse[0]} is for FUSE mounts, {kernel[0]} for kernel mounts",
                hint="give only one of them",
            )
        return bool(kernel) or (not fuse and os.geteuid() == 0)

    def _given(self, kind: str) -> list[str]:
        """The options of one kind of mount that were given, as the user wrote them."""
        kinds = {row.flag: row.kind for row in mount_options.TABLE if row.flag}
        flags = [
            option.flags[0]
            for option in FLAGS
            if kinds[option.flags[0]] == kind and self._is_flag(option.attribute, option.sets)
        ]
        words = [f"-o {row.word}" for row, _ in self._words.values() if row.kind == kind]
        return flags + words

    def _is_flag(self, attribute: str, sets: object) -> bool:
        """Whether a flag was given, among those that share the attribute the one with `sets`."""
        value = getattr(self._args, attribute)
        return value == sets if isinstance(value, bool) else value is not None

    # --- FUSE ------------------------------------------------------------------------------------

    def for_fuse(self) -> MountOptions:
        """The options of a FUSE mount. Raises `UsageError`."""
        from cfsfuse.options import Engine, MountOptions
        from cfsrepo.images.verified import Verify

        words = ["ro"] if self._value("access") == "ro" else []
        words += [name for name in _KERNEL_WORDS if self._value(name)]
        shown_to_all = self._value("allow_other") and not self._value("no_enforce")
        if shown_to_all or self._value("enforce_permissions"):
            words.append("default_permissions")
        for name in _SWITCHES:
            if name in self._words:
                words.append(self._words[name][0].word)
        return MountOptions(
            engine=Engine(self._value("engine") or Engine.PYFUSE3),
            verify=Verify(self._value("verify") or Verify.AUTO),
            kernel=tuple(words),
            owners=self._owners(),
            subdir=os.fsencode(self._value("subdir") or ""),
        )

    def _owners(self) -> Owners:
        from cfsrepo.images.owners import Owners, parse_idmap

        uids, gids = parse_idmap(idmap) if (idmap := self._value("idmap")) else ((), ())
        return Owners(self._id("uid"), self._id("gid"), uids, gids)

    def _id(self, name: str) -> int | None:
        text = self._value(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or int(text) > _ID_MAX:
            raise UsageError(f"{name} {text}: not a number from 0 to {_ID_MAX}")
        return int(text)

    # --- kernel ----------------------------------------------------------------------------------

    def for_kernel(self) -> KernelRequest:
        """The options of a kernel mount. Raises `UsageError`."""
        upper, work, access = self._value("upper"), self._value("work"), self._value("access")
        if (upper is None) != (work is None):
            raise UsageError("--upper and --work belong together", hint="give both or none")
        if self._args.rw and upper is not None:
            raise UsageError("--rw keeps changes in memory, --upper in a directory")
        read_only = bool(self._args.read_only) or access == "ro"
        switches = (*_SWITCHES, "atime")
        return KernelRequest(
            require_verity=self._require_verity(),
            digest=self._value("digest"),
            # `-o rw,upperdir=` is how mount(8) says that changes are kept there.
            in_memory=upper is None and not read_only and (self._value("rw") or access == "rw"),
            upper=upper,
            work=work,
            read_only=read_only,
            idmap=self._value("idmap"),
            helper=Helper(self._value("helper") or Helper.AUTO),
            attributes=frozenset(f"no{name}" for name in switches if self._value(name) is False),
        )

    def _require_verity(self) -> bool | None:
        flag: bool | None = self._args.require_verity
        if flag is None and "require_verity" in self._words:
            return bool(self._words["require_verity"][1])
        return flag
