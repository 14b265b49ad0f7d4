"""Pins: notes in the repository of what uses an image, which a collection then keeps.

    cfsfuse/pins/ID    a JSON object: {"version": 1, "image_id": HEX, "kind": KIND, "reason": TEXT,
                       "mount_point": PATH, "boot_id": UUID, "pid": N, "start_time": N,
                       "device": [MAJOR, MINOR]}

ID begins with 12 hex digits of the image's id and a hyphen.

    kind      made by             holds as long as
    -------   -----------------   ----------------------------------------------------------------
    process   a FUSE mount        the process `pid` that started at `start_time` (clock ticks since
                                  boot, proc(5)) lives, in the boot `boot_id`
    mount     a kernel mount      a file system with this device number is mounted in some mount
                                  namespace (or not all can be looked into), in the boot `boot_id`
    person    `cfs pin`           somebody removes it

A pin is written while the repository is open, that is under its shared lock, and before the lock is
given back; it appears whole. What does not apply to a kind is null. Paths are in the spelling of
`os.fsdecode`. Which pins hold, and what else keeps an image, says `cfsrepo.upkeep.inuse`.

A file that is no pin, torn by a power failure or from a newer program, is read as one of the kind
`damaged`. It keeps every image whose id begins as its name does, and all where the name tells
nothing, until somebody removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cfsrepo.errors import NotFoundError
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux
from cfsrepo.system.processes import boot_id, process_start_time

_DIRECTORY: Final = "pins"
_PATH: Final = f"{PRIVATE_DIRECTORY}/{_DIRECTORY}"
_NAME: Final = re.compile(r"([0-9a-f]{12})-")
_VERSION: Final = 1
_SIZE_MAX: Final = 64 << 10


class PinKind(StrEnum):
    """What a pin stands for; see the module's table."""

    PROCESS = "process"
    MOUNT = "mount"
    PERSON = "person"
    DAMAGED = "damaged"
    """Never written: a file that is no pin."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin of the repository."""

    pin_id: str
    """Its file's name."""
    image_id: str
    """The image's id; of a damaged pin what its name says, the beginning of one or nothing."""
    kind: PinKind
    reason: str = ""
    mount_point: str | None = None
    boot_id: str | None = None
    pid: int | None = None
    start_time: int | None = None
    device: tuple[int, int] | None = None

    def keeps(self, image_id: str) -> bool:
        """Whether it is a pin of the image."""
        if self.kind is PinKind.DAMAGED:
            return image_id.startswith(self.image_id)
        return image_id == self.image_id

    def describe(self) -> str:
        """What holds it, for people."""
        if self.kind is PinKind.DAMAGED:
            return f"pin {self.pin_id} cannot be read: {self.reason}"
        if self.kind is PinKind.PERSON:
            return f"pinned: {self.reason}" if self.reason else "pinned"
        by = f" (process {self.pid})" if self.kind is PinKind.PROCESS else ""
        return f"mounted at {self.mount_point}{by}"


def pin_process(
    repository: Repository, image_id: str, mount_point: str, pid: int | None = None
) -> Pin:
    """Pin an image for a process that serves it (None: this one) at `mount_point`."""
    pid = os.getpid() if pid is None else pid
    start_time = process_start_time(pid)
    if start_time is None:
        raise NotFoundError(f"process {pid} does not exist")
    pin = Pin(
        _new_id(image_id),
        image_id,
        PinKind.PROCESS,
        mount_point=mount_point,
        boot_id=boot_id(),
        pid=pid,
        start_time=start_time,
    )
    return _write(repository, pin)


def pin_mount(
    repository: Repository,
    image_id: str,
    mount_point: str,
    device: tuple[int, int] | None = None,
) -> Pin:
    """Pin an image for the kernel mount at `mount_point`.

    `device` is the major and minor number of its root's `st_dev`; it is asked for where the mount
    is in place already.
    """
    if device is None:
        number = os.stat(mount_point).st_dev
        device = (os.major(number), os.minor(number))
    pin = Pin(
        _new_id(image_id),
        image_id,
        PinKind.MOUNT,
        mount_point=mount_point,
        boot_id=boot_id(),
        device=device,
    )
    return _write(repository, pin)


def pin_person(repository: Repository, image_id: str, reason: str = "") -> Pin:
    """Pin an image until `remove`, for a person who says why."""
    return _write(repository, Pin(_new_id(image_id), image_id, PinKind.PERSON, reason))


def remove(repository: Repository, pin: Pin) -> None:
    """Remove a pin. One that is gone already is no error."""
    repository.check_writable()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{_PATH}/{pin.pin_id}", dir_fd=repository.fd)


def remove_at(repository: Repository, mount_point: str) -> int:
    """Remove the pins of mounts at `mount_point`; returns how many there were."""
    found = [pin for pin in read(repository) if pin.mount_point == mount_point]
    for pin in found:
        remove(repository, pin)
    return len(found)


def read(repository: Repository) -> list[Pin]:
    """All pins: also those of what is gone, and damaged ones."""
    try:
        directory = os.open(_PATH, os.O_RDONLY | os.O_DIRECTORY, dir_fd=repository.fd)
    except FileNotFoundError:
        return []
    pins = []
    try:
        for name in sorted(os.listdir(directory)):
            if name.startswith("."):
                continue  # on its way
            try:
                with linux.opened(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory) as fd:
                    pins.append(_parse(name, os.read(fd, _SIZE_MAX)))
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                pins.append(_damaged(name, error.strerror or str(error)))
    finally:
        os.close(directory)
    return pins


def path_of(pin: Pin) -> str:
    """Where the pin is, in the repository."""
    return f"{_PATH}/{pin.pin_id}"


def _new_id(image_id: str) -> str:
    return f"{image_id[:12]}-{os.urandom(8).hex()}"


def _write(repository: Repository, pin: Pin) -> Pin:
    if not repository.has_image(pin.image_id):
        raise NotFoundError(f"{pin.image_id}: no such image")
    value = {
        "version": _VERSION,
        "image_id": pin.image_id,
        "kind": str(pin.kind),
        "reason": pin.reason,
        "mount_point": pin.mount_point,
        "boot_id": pin.boot_id,
        "pid": pin.pid,
        "start_time": pin.start_time,
        "device": pin.device,
    }
    directory = repository.private_directory(_DIRECTORY)
    path = os.path.join(directory, pin.pin_id)
    temporary = os.path.join(directory, f".{pin.pin_id}")
    try:
        with linux.opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            os.fchmod(fd, 0o644)
            os.write(fd, json.dumps(value).encode() + b"\n")
            if pin.kind is PinKind.PERSON:  # the others mean nothing after a reboot
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return pin


def _parse(name: str, data: bytes) -> Pin:
    try:
        value = json.loads(data)
        if not isinstance(value, dict) or value.get("version") != _VERSION:
            raise ValueError("unknown version")
        kind = PinKind(value["kind"])
        device = value["device"]
        pin = Pin(
            name,
            _text(value, "image_id"),
            kind,
            _text(value, "reason"),
            None if value["mount_point"] is None else _text(value, "mount_point"),
            None if value["boot_id"] is None else _text(value, "boot_id"),
            _number(value, "pid"),
            _number(value, "start_time"),
            None if device is None else (int(device[0]), int(device[1])),
        )
        if kind is PinKind.DAMAGED or (kind is PinKind.PROCESS and pin.pid is None):
            raise ValueError("no pid" if pin.pid is None else "unknown kind")
        return pin
    except KeyError as error:
        return _damaged(name, f"no {error}")
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        return _damaged(name, "empty" if not data else str(error))


def _damaged(name: str, reason: str) -> Pin:
    match = _NAME.match(name)
    return Pin(name, match[1] if match else "", PinKind.DAMAGED, reason)


def _text(value: dict[str, Any], key: str) -> str:
    found = value[key]
    if not isinstance(found, str):
        raise ValueError(f"{key} is no string")
    return found


def _number(value: dict[str, Any], key: str) -> int | None:
    found = value[key]
    if found is not None and not isinstance(found, int):
        raise ValueError(f"{key} is no number")
    return found
