"""How an image is to be mounted by FUSE."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cfsrepo.images.owners import AS_IN_IMAGE, Owners
from cfsrepo.images.verified import Verify


class Engine(StrEnum):
    """Which server answers the kernel."""

    DIRECT = "direct"  # ours: cfsfuse.engines.direct
    PYFUSE3 = "pyfuse3"  # libfuse through pyfuse3: cfsfuse.operations


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The choices for a FUSE mount."""

    engine: Engine = Engine.PYFUSE3
    verify: Verify = Verify.AUTO
    kernel: tuple[str, ...] = ()
    """Options for the kernel, of `KERNEL_OPTIONS`."""
    owners: Owners = AS_IN_IMAGE
    subdir: bytes = b""

    @property
    def shared(self) -> bool:
        """Whether users other than the one who mounts can use the mount."""
        return "allow_other" in self.kernel
