"""Getting a FUSE connection: /dev/fuse opened, and mounted, by mount(2) or by fusermount3.

`connect` returns the descriptor on which the kernel sends requests. When it is closed, which the
end of the process does too, every access to the mount fails with ENOTCONN.
"""

from __future__ import annotations

import array
import errno
import os
import pwd
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence

from cfsfuse.mounts import SUBTYPE
from cfsrepo.errors import MountError, printable
from cfsrepo.system import linux

_DEVICE = "/dev/fuse"
_HELPERS = ("fusermount3", "fusermount")
# Mount flags by the names of mount(8); FUSE has the others as options of the file system.
_FLAGS = {
    "nosuid": (linux.MS_NOSUID, True),
    "suid": (linux.MS_NOSUID, False),
    "nodev": (linux.MS_NODEV, True),
    "dev": (linux.MS_NODEV, False),
    "noexec": (linux.MS_NOEXEC, True),
    "exec": (linux.MS_NOEXEC, False),
}
KERNEL_OPTIONS = frozenset({*_FLAGS, "ro", "allow_other", "default_permissions"})


def connect(point: bytes, source: str, options: Sequence[str]) -> int:
    """Mount at `point`, read-only; returns the descriptor of the connection.

    `source` is shown as the device. `options` are of `KERNEL_OPTIONS`. Raises `MountError`.
    """
    return (_mount if os.geteuid() == 0 else _mount_as_user)(point, source, options)


def helper() -> str:
    """The set-uid program that mounts for a user; `MountError` where it is not installed."""
    for name in _HELPERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise MountError(
        "fusermount3 is not installed: a user cannot mount without it",
        hint="install the package fuse3",
    )


def _mount(point: bytes, source: str, options: Sequence[str]) -> int:
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise explained(point, f"{_DEVICE}: {error.strerror}") from error
    flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    data = [f"fd={fd}", "rootmode=40000", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    for option in options:
        flag, on = _FLAGS.get(option, (0, True))
        flags = flags | flag if on else flags & ~flag
        if not flag and option != "ro":
            data.append(option)
    try:
        linux.mount(source, point, f"fuse.{SUBTYPE}", flags, ",".join(data))
    except OSError as error:
        os.close(fd)
        raise explained(point, error.strerror or str(error)) from error
    return fd


def _mount_as_user(point: bytes, source: str, options: Sequence[str]) -> int:
    """fusermount3 sends the descriptor over the socket that $_FUSE_COMMFD names."""
    _check_account(point)
    words = ["ro", f"fsname={_escaped(source)}", f"subtype={SUBTYPE}"]
    words += [option for option in options if option != "ro"]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        process = subprocess.Popen(
            [helper(), "-o", ",".join(words), "--", point],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        fd = _received(ours)
        _, complaint = process.communicate()
    if fd is None:
        text = complaint.decode(errors="replace").strip().replace("\n", "; ")
        raise explained(point, text or f"{helper()} failed")
    os.set_inheritable(fd, False)
    return fd


def _check_account(point: bytes) -> None:
    """fusermount3 does nothing for a user without a name. Raises `MountError`."""
    uid = os.getuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise MountError(
            f"{printable(point)}: cannot mount: the user id {uid} has no entry in /etc/passwd, "
            "which fusermount3 wants",
            hint=f"as root: echo user{uid}:x:{uid}:{os.getgid()}::/:/bin/sh >> /etc/passwd",
        ) from None


def _received(connection: socket.socket) -> int | None:
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: fds.itemsize])
            return fds[0]
    return None


def _escaped(text: str) -> str:
    r"""`text` as the value of an option of fusermount3, which takes `\` for an escape."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def explained(point: bytes, reason: str) -> MountError:
    """The kernel's or fusermount3's complaint as our error, with what helps."""
    hint = None
    if _DEVICE in reason or "device not found" in reason:
        hint = _device_hint()
    elif "user_allow_other" in reason:
        hint = "root must put user_allow_other into /etc/fuse.conf for allow_other"
    elif "no write access" in reason or "Permission denied" in reason:
        hint = "a user mounts on a directory of their own"
    return MountError(f"{printable(point)}: cannot mount: {printable(reason)}", hint=hint)


def _device_hint() -> str | None:
    try:
        mode = os.stat(_DEVICE).st_mode
    except OSError:
        return "load the kernel module fuse (modprobe fuse); a container needs --device /dev/fuse"
    if not stat.S_ISCHR(mode):
        return f"{_DEVICE} is not a device"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"users must be able to open {_DEVICE}: chmod 0666 {_DEVICE} as root"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENODEV or error.errno == errno.ENXIO:
            return "load the kernel module fuse (modprobe fuse)"
    return None
