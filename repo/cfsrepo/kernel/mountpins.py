"""From a kernel mount in the mount table back to the pins that stand for it in its repository.

The options of an overlay name its data-only layer, `REPOSITORY/objects`; a pin of kind `mount`
there names the device number of the file system. Both together prove that `cfs` made the mount.
Where the options name no repository (mount.composefs gives descriptors) the caller's is asked.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from cfsrepo.errors import CfsError
from cfsrepo.store import pins
from cfsrepo.store.pins import Pin
from cfsrepo.store.repository import Repository
from cfsrepo.system import mounttable
from cfsrepo.system.mounttable import Mount
from cfsrepo.system.processes import boot_id

_SOURCE: Final = b"composefs"
_OBJECTS: Final = "objects"


def pins_of(mount: Mount, fallback: str | None = None) -> list[Pin]:
    """The pins that stand for `mount`; empty where it is none of ours, or cannot be told.

    `fallback`: the repository to ask where the mount table names none.
    """
    repository = _repository(mount, fallback)
    if repository is None:
        return []
    with contextlib.suppress(CfsError, OSError), repository:
        return _pins(repository, mount)
    return []


def unpin(mount: Mount, fallback: str | None = None) -> None:
    """Take the pins of a mount off that was unmounted, unless it is mounted elsewhere too.

    Only tidies up: a pin whose mount is gone means nothing, and a collection drops it.
    """
    if mount.device in {other.device for other in mounttable.read_all()[0]}:
        return
    repository = _repository(mount, fallback)
    if repository is not None:
        with contextlib.suppress(CfsError, OSError), repository:
            for pin in _pins(repository, mount):
                pins.remove(repository, pin)


def _pins(repository: Repository, mount: Mount) -> list[Pin]:
    boot = boot_id()
    return [
        pin for pin in pins.read(repository) if pin.device == mount.device and pin.boot_id == boot
    ]


def _repository(mount: Mount, fallback: str | None) -> Repository | None:
    """The repository whose objects an overlay shows, opened; None where there is none."""
    if mount.fstype != "overlay" or mount.source.partition(b":")[0] != _SOURCE:
        return None
    parents = [
        os.path.dirname(path)
        for path in map(os.fsdecode, _data_layers(mount))
        if os.path.basename(path) == _OBJECTS
    ]
    if not parents and fallback is not None:
        parents = [fallback]
    for parent in parents:
        with contextlib.suppress(CfsError, OSError):
            return Repository.open(parent, check_policy=False)
    return None


def _data_layers(mount: Mount) -> list[bytes]:
    """The lowest layers of an overlay, in each way in which kernels list them."""
    layers = mount.values(b"datadir+")
    for value in mount.values(b"lowerdir"):
        last = value.replace(b"\\:", b"\0").rpartition(b":")[2]
        layers.append(last.replace(b"\0", b":").replace(b"\\\\", b"\\"))
    return layers
