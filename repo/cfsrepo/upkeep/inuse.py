"""What keeps an image from being collected although nothing names it: that it is in use.

An image is in use

- while anybody has its file open. The kernel tells, in whatever namespace that is and whatever
  program it is: a FUSE server that has it mapped, a loop device, a mount of it as EROFS. It is
  asked for a lease (`leases.is_open_elsewhere`). Where it cannot be asked, since the file system
  has no leases or the file is another user's, the shared flock(2) tells that
  `Repository.open_image` takes: of our own servers, in whatever namespace;
- while a pin holds (`cfsrepo.store.pins`). A damaged pin always holds;
- while an overlay of composefs is mounted whose source says its image. One that does not say it,
  and whose data may be this repository's, counts for all images;
- while a FUSE server of cfsctl has the repository's objects open. It may have read its image into
  memory, and does not say which one it is: it counts for all images.

To keep too much is the only safe answer. Asked under the exclusive lock, this is complete: who
opens an image holds the shared lock until then. Under the shared lock, whoever looks into an image
at the moment counts too.

A collection by cfsctl knows nothing of this: it frees the files of mounted images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from cfsrepo.errors import CfsError, NotFoundError
from cfsrepo.images import names
from cfsrepo.store import pins
from cfsrepo.store.pins import Pin, PinKind
from cfsrepo.store.repository import Repository
from cfsrepo.store.temporary import temporary_name
from cfsrepo.system import leases, linux, mounttable
from cfsrepo.system.mounttable import Mount
from cfsrepo.system.processes import boot_id, process_start_time

_OVERLAY_SOURCE: Final = b"composefs"
_SELF_FD: Final = b"/proc/"
_SERVING: Final = b"--internal-fuse-serve"  # how cfsctl calls itself to serve a mount


@dataclass(slots=True)
class InUse:
    """The images that are in use, and the pins."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    """Image id -> why it is kept though it may have no name."""
    live_pins: list[Pin] = field(default_factory=list)
    dead_pins: list[Pin] = field(default_factory=list)
    """Pins of what is gone: a collection drops them."""

    @property
    def damaged_pins(self) -> list[Pin]:
        """Those of the live ones that cannot be read."""
        return [pin for pin in self.live_pins if pin.kind is PinKind.DAMAGED]


def find(repository: Repository) -> InUse:
    """What is in use of the repository. The caller holds a lock of it."""
    images = sorted(repository.images())
    opened = _open_images(repository, images)
    result = InUse()
    _judge_pins(pins.read(repository), opened, result)
    reasons: dict[str, list[str]] = {image_id: [] for image_id in images}
    for pin in result.live_pins:
        for image_id in filter(pin.keeps, images):
            reasons[image_id].append(pin.describe())
    certain, perhaps = _mounted_images(repository, images)
    for image_id, point in certain:
        reasons[image_id].append(f"mounted at {point}")
    for image_id in opened:
        if not reasons[image_id]:
            reasons[image_id].append("its file is open or mounted")
    guesses = [f"perhaps mounted at {point}" for point in perhaps]
    guesses += [
        f"perhaps served by cfsctl (process {pid})" for pid in serving_processes(repository)
    ]
    for found in reasons.values():
        if not found:
            found += guesses
    result.reasons = {image_id: found for image_id, found in reasons.items() if found}
    return result


# --- files ---------------------------------------------------------------------------------------


def _open_images(repository: Repository, images: list[str]) -> set[str]:
    """The images whose file somebody has open, or says so by its lock."""
    found = set()
    leases_work: bool | None = None
    for image_id in images:
        try:
            fd = repository.objects.open(bytes.fromhex(image_id))
        except (NotFoundError, OSError):
            continue  # damage, which marking and checking tell of
        try:
            answer = leases.is_open_elsewhere(fd)
            if answer and leases_work is None:
                leases_work = _leases_work(repository)
            if answer is None or (answer and not leases_work):
                answer = linux.is_in_use(fd)
            if answer:
                found.add(image_id)
        finally:
            os.close(fd)
    return found


def _leases_work(repository: Repository) -> bool:
    """Whether a file that nobody has open is told from one that somebody has."""
    if not repository.writable:
        return True  # cannot be tried out: rather keep too much
    directory = repository.objects.dir_fd
    name = temporary_name()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o600, dir_fd=directory))
    try:
        with linux.opened(name, os.O_RDONLY, dir_fd=directory) as fd:
            return leases.is_open_elsewhere(fd) is False
    finally:
        os.unlink(name, dir_fd=directory)


# --- pins ----------------------------------------------------------------------------------------


def _judge_pins(found: list[Pin], opened: set[str], result: InUse) -> None:
    """Tell the pins that hold from those of what is gone."""
    boot = boot_id()
    devices: set[tuple[int, int]] = set()
    complete = True
    if any(pin.kind is PinKind.MOUNT for pin in found):
        mounts, complete = mounttable.read_all()
        devices = {mount.device for mount in mounts}
    for pin in found:
        match pin.kind:
            case PinKind.PERSON | PinKind.DAMAGED:
                holds = True
            case PinKind.PROCESS:
                assert pin.pid is not None
                # A process of another PID namespace is not seen; its open image file is.
                holds = pin.boot_id == boot and (
                    process_start_time(pin.pid) == pin.start_time or pin.image_id in opened
                )
            case PinKind.MOUNT:
                holds = pin.boot_id == boot and (
                    pin.device in devices or not complete or pin.image_id in opened
                )
        (result.live_pins if holds else result.dead_pins).append(pin)


# --- mounts and servers of others ----------------------------------------------------------------


def _mounted_images(
    repository: Repository, images: list[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Images that the kernel has mounted as composefs: (image id, mount point) of each.

    The mount's source says the image: `composefs:ID` or `composefs:NAME`. Also the mount points of
    those that do not say it, and whose data may be this repository's.
    """
    certain: list[tuple[str, str]] = []
    perhaps: list[str] = []
    own = os.fsencode(os.path.realpath(repository.objects.path))
    for mount in mounttable.read_all()[0]:
        if mount.fstype != "overlay" or not mount.source.startswith(_OVERLAY_SOURCE):
            continue
        point = os.fsdecode(mount.mount_point)
        name = os.fsdecode(mount.source.partition(b":")[2])
        if name in images:
            certain.append((name, point))
        elif not _can_be_ours(mount, own):
            continue
        elif name and (image_id := _resolve(repository, name)) is not None:
            certain.append((image_id, point))
        elif not name or not _is_id(name, repository):
            perhaps.append(point)
    return certain, perhaps


def serving_processes(repository: Repository) -> list[int]:
    """Processes of cfsctl that serve an image of the repository by FUSE.

    They hold no lock, and their mounts say nothing of them; they have the object directory open.
    """
    if not os.path.isdir(repository.objects.path):
        return []
    wanted = os.stat(repository.objects.path)
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if _SERVING not in file.read().split(b"\0"):
                    continue
            for fd in os.listdir(f"/proc/{pid}/fd"):
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(pid))
                    break
        except OSError:
            continue  # it ended, or belongs to somebody whose repository this is not
    return found


def _can_be_ours(mount: Mount, objects: bytes) -> bool:
    """Whether the data of an overlay mount may come from the object directory `objects`."""
    layers = mount.values(b"datadir+")
    for lower in mount.values(b"lowerdir"):
        layers += lower.split(b":")[1:]
    layers = [layer for layer in layers if layer]
    # Layers that were given as descriptors are shown as such, and tell nothing.
    return not layers or any(
        layer.startswith(_SELF_FD) or os.path.realpath(layer) == objects for layer in layers
    )


def _is_id(name: str, repository: Repository) -> bool:
    """Whether `name` is a whole image id (then it is one of another repository)."""
    size = 2 * repository.algorithm.digest_size
    return len(name) == size and all(char in "0123456789abcdef" for char in name)


def _resolve(repository: Repository, name: str) -> str | None:
    refs = repository.image_refs()
    if (image_id := refs.get(name.removeprefix("refs/"))) is not None:
        return image_id
    try:
        return names.resolve(repository, name).image_id
    except CfsError:
        return None
