"""A daemon that says when it is ready, or in one line why it will never be.

The caller waits on a pipe. The daemon writes JSON lines: `{"pid": N}` when it exists, then
`{"ready": true}` or `{"error": CLASS, "message": TEXT, "hint": TEXT}`. It keeps nothing of the
caller: no descriptor, no terminal, no working directory, no signal setting. So `serve` has to open
what it needs by itself. All of this happens before any thread starts.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from cfsrepo import errors
from cfsrepo.errors import CfsError, MountError

Ready = Callable[[], None]

_ERRORS: dict[str, type[CfsError]] = {
    value.__name__: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, CfsError)
}


def run(serve: Callable[[Ready], None], log_fd: int, *, timeout: float) -> int:
    """Run `serve(ready)` in a daemon; returns its pid once it has called `ready`.

    `log_fd` becomes the daemon's stdout and stderr. An error before that is raised here, as it was
    raised there; silence for `timeout` seconds ends the daemon and is a `MountError`.
    """
    receiver, sender = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _detach(serve, log_fd, sender)
    os.close(sender)
    try:
        os.waitpid(child, 0)  # ends at once: it only makes the daemon
        return _await_ready(receiver, time.monotonic() + timeout)
    finally:
        os.close(receiver)


def notify_service_manager() -> None:
    """Tell systemd, if it started this process as a service of type notify, that it is ready."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.connect(address)
        manager.sendall(b"READY=1")


def _await_ready(receiver: int, deadline: float) -> int:
    pid = 0
    pending = b""
    while True:
        waited, _, _ = select.select([receiver], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(receiver, 65536) if waited else b""
        if not part:
            if not waited and pid:
                os.kill(pid, signal.SIGKILL)
            raise MountError(
                "the server ended before the mount was ready"
                if waited
                else "the mount did not answer in time; its server was ended"
            )
        *lines, pending = (pending + part).split(b"\n")
        for message in map(json.loads, lines):
            if "pid" in message:
                pid = message["pid"]
            elif "ready" in message:
                return pid
            else:
                kind = _ERRORS.get(message["error"], MountError)
                raise kind(message["message"], hint=message["hint"])


def _detach(serve: Callable[[Ready], None], log_fd: int, sender: int) -> NoReturn:
    """In the child: become a daemon and serve. Never returns, whatever happens."""
    code = errors.EXIT_DEFECT
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # the daemon, no session leader, can never get a terminal
        os.chdir("/")
        os.umask(0o022)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _close_descriptors(log_fd, sender)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        code = _serve(serve, sender)
    except BaseException:  # noqa: BLE001 - there is nobody left to raise it to
        traceback.print_exc()
    finally:
        os._exit(code)


def _serve(serve: Callable[[Ready], None], sender: int) -> int:
    def send(message: dict[str, Any]) -> None:
        os.write(sender, json.dumps(message).encode() + b"\n")

    told = False

    def ready() -> None:
        nonlocal told
        told = True
        send({"ready": True})
        os.close(sender)

    send({"pid": os.getpid()})
    try:
        serve(ready)
    except CfsError as error:
        if told:
            raise
        send({"error": type(error).__name__, "message": str(error), "hint": error.hint})
        return error.exit_code
    except OSError as error:
        if told:
            raise
        name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        send({"error": "SystemFailure", "message": f"{name}{error.strerror}", "hint": None})
        return errors.SystemFailure.exit_code
    return errors.EXIT_OK


def _close_descriptors(log_fd: int, sender: int) -> None:
    """Leave /dev/null as 0, the log as 1 and 2, and `sender`; close all others."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    for entry in os.listdir("/proc/self/fd"):
        number = int(entry)
        if number > 2 and number != sender:
            try:
                os.close(number)
            except OSError:
                continue  # the descriptor of the listing itself, gone already
