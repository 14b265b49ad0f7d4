"""Pins: images that a collection keeps although nothing names them, because they are in use.

    cfsfuse/pins/ID    a JSON object: {"version": 1, "image_id": HEX, "kind": KIND, "reason": TEXT,
                       "mount_point": PATH, "boot_id": UUID, "pid": N, "start_time": N,
                       "device": [MAJOR, MINOR]}

    kind      made by             holds as long as
    -------   -----------------   ----------------------------------------------------------------
    process   a FUSE mount        the process `pid` that started at `start_time` (clock ticks since
                                  boot, proc(5)) lives, in the boot `boot_id`
    mount     a kernel mount      a file system with this device number is mounted in some mount
                                  namespace (or not all can be looked into), in the boot `boot_id`
    person    `cfs pin`           somebody removes it

A pin is written while the repository is open, that is under its shared lock, and before the lock is
given back; it appears whole. What does not apply to a kind is null. Paths are in the spelling of
`os.fsdecode`.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cfsrepo.errors import NotFoundError, RepositoryError
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux, mounttable
from cfsrepo.system.processes import boot_id, process_start_time

_DIRECTORY: Final = "pins"
_PATH: Final = f"{PRIVATE_DIRECTORY}/{_DIRECTORY}"
_VERSION: Final = 1
_SIZE_MAX: Final = 64 << 10


class PinKind(StrEnum):
    """What a pin stands for; see the module's table."""

    PROCESS = "process"
    MOUNT = "mount"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin of the repository."""

    pin_id: str
    """Its file's name."""
    image_id: str
    kind: PinKind
    reason: str = ""
    mount_point: str | None = None
    boot_id: str | None = None
    pid: int | None = None
    start_time: int | None = None
    device: tuple[int, int] | None = None

    def describe(self) -> str:
        """What holds it, for people."""
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
    """All pins, dead ones among them; `RepositoryError` for one that cannot be understood."""
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
                    data = os.read(fd, _SIZE_MAX)
            except FileNotFoundError:
                continue  # removed meanwhile
            pins.append(_parse(name, data, os.path.join(repository.path, _PATH, name)))
    finally:
        os.close(directory)
    return pins


def live(repository: Repository, *, drop: bool = False) -> list[Pin]:
    """The pins that still hold; with `drop` the others are removed."""
    boot = boot_id()
    mounted: tuple[set[tuple[int, int]], bool] | None = None
    found = []
    for pin in read(repository):
        if pin.kind is PinKind.PERSON:
            found.append(pin)
            continue
        alive = pin.boot_id == boot
        if alive and pin.kind is PinKind.PROCESS:
            assert pin.pid is not None
            alive = process_start_time(pin.pid) == pin.start_time
        elif alive:
            if mounted is None:
                mounts, complete = mounttable.read_all()
                mounted = ({mount.device for mount in mounts}, complete)
            alive = pin.device in mounted[0] or not mounted[1]
        if alive:
            found.append(pin)
        elif drop:
            remove(repository, pin)
    return found


def _new_id(image_id: str) -> str:
    return f"{image_id[:12]}-{os.urandom(8).hex()}"


def _write(repository: Repository, pin: Pin) -> Pin:
    if pin.image_id not in repository.images():
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


def _parse(name: str, data: bytes, path: str) -> Pin:
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
        if kind is PinKind.PROCESS and pin.pid is None:
            raise ValueError("no pid")
        return pin
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        # To take it for dead could cost a mounted image its files.
        raise RepositoryError(
            f"{path}: a pin that cannot be understood: {error}",
            hint="remove the file if nothing is mounted from this repository",
        ) from error


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
