"""The mount table of this process's mount namespace, `/proc/self/mountinfo` (proc(5)) as values."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_DEVICE = re.compile(rb"([0-9]{1,10}):([0-9]{1,10})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount. Paths and options are bytes as the kernel has them, escapes undone."""

    mount_id: int
    device: tuple[int, int]
    """Major and minor of the file system's device, anonymous for file systems without one."""
    root: bytes
    """Which directory of the file system is mounted."""
    mount_point: bytes
    fstype: str
    source: bytes
    """What the file system calls its source: a block device, a name."""
    options: tuple[bytes, ...]
    """Options of the file system (not of the mount), `key` or `key=value`."""

    def values(self, key: bytes) -> list[bytes]:
        """The values of every option `key`, in order."""
        prefix = key + b"="
        return [option[len(prefix) :] for option in self.options if option.startswith(prefix)]


def parse(data: bytes) -> list[Mount]:
    """The mounts of a mountinfo file; a line that is not understood is left out."""
    mounts = []
    for line in data.split(b"\n"):  # a carriage return is part of a name
        head, dash, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ", 2)
        device = _DEVICE.fullmatch(fields[2]) if len(fields) >= 6 else None
        if not dash or not device or not _NUMBER.fullmatch(fields[0]) or len(rest) < 3:
            continue
        mounts.append(
            Mount(
                mount_id=int(fields[0]),
                device=(int(device[1]), int(device[2])),
                root=_unescape(fields[3]),
                mount_point=_unescape(fields[4]),
                fstype=_unescape(rest[0]).decode("ascii", "replace"),
                source=_unescape(rest[1]),
                options=tuple(_unescape(option) for option in rest[2].split(b",")),
            )
        )
    return mounts


def read() -> list[Mount]:
    """The mounts as this process sees them now."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(file.read())


def read_all() -> tuple[list[Mount], bool]:
    """The mounts of every mount namespace that a process lives in and that we may look into.

    Also says whether those are all: False where processes of others could not be asked. Mounts of
    several namespaces that are copies of each other come several times.
    """
    mounts = read()
    seen = {os.readlink("/proc/self/ns/mnt")}
    complete = True
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in seen:
                with open(f"/proc/{pid}/mountinfo", "rb") as file:
                    mounts += parse(file.read())
                seen.add(namespace)
        except PermissionError:
            complete = False
        except OSError:
            continue  # it ended meanwhile, or is a kernel thread
    return mounts, complete


def mount_of(path: str) -> Mount | None:
    """The mount that holds `path`; None where this namespace does not show it."""
    real = os.fsencode(os.path.realpath(path))
    best = None
    for mount in read():
        point = mount.mount_point.rstrip(b"/") + b"/"
        inside = (real + b"/").startswith(point)
        # Later mounts on the same point hide earlier ones.
        if inside and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
