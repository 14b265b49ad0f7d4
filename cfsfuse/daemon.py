"""A daemon that says when it is ready, or in one line why it will never be.

The caller waits on a pipe. The daemon writes JSON lines: `{"pid": N}` when it exists, then
`{"ready": true}` or `{"error": CLASS, "message": TEXT, "hint": TEXT}`. It keeps nothing of the
caller: no descriptor, no terminal, no working directory, no signal setting. So `serve` has to open
what it needs by itself. All of this happens before any thread starts.

A caller that goes away before the daemon is ready (Ctrl-C, a time-out, SIGKILL) does not leave one
behind: it ends the daemon, and where it cannot do that any more, `ready` fails in the daemon.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from cfsfuse.signals import endings_blocked
from cfsrepo import errors
from cfsrepo.errors import CfsError, MountError

log = logging.getLogger(__name__)

Ready = Callable[[], None]
_PATIENCE = 5.0  # seconds for a daemon to end
_KILLED = 30.0  # and for one that was killed

_ERRORS: dict[str, type[CfsError]] = {
    value.__name__: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, CfsError)
}


def run(
    serve: Callable[[Ready], None],
    log_fd: int,
    *,
    timeout: float,
    undo: Callable[[], None] = lambda: None,
) -> int:
    """Run `serve(ready)` in a daemon; returns its pid once it has called `ready`.

    `log_fd` becomes the daemon's stdout and stderr. An error before that is raised here, as it was
    raised there; silence for `timeout` seconds is a `MountError`. Whatever ends the waiting, Ctrl-C
    too, ends the daemon, and `undo` takes back what a daemon leaves that was killed.
    """
    receiver, sender = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    messages = _Messages(receiver)
    try:
        with endings_blocked():  # no daemon comes into being that we do not end
            child = os.fork()
            if child == 0:
                _detach(serve, log_fd, sender)
            os.close(sender)
            os.waitpid(child, 0)  # ends at once: it only makes the daemon
        messages.await_ready(time.monotonic() + timeout)
    except BaseException:
        with endings_blocked():
            messages.end_daemon()
            undo()
        raise
    finally:
        os.close(receiver)
    return messages.pid


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


class _Messages:
    """What the daemon says on the pipe `receiver`."""

    def __init__(self, receiver: int) -> None:
        self._receiver = receiver
        self._pending = b""
        self.pid = 0
        """Of the daemon, once it has said so."""

    def await_ready(self, deadline: float) -> None:
        """Return when the daemon is ready; raise what it raises, or `MountError`."""
        while (message := self._next(deadline)) is not None:
            if "pid" in message:
                self.pid = message["pid"]
            elif "ready" in message:
                return
            else:
                kind = _ERRORS.get(message["error"], MountError)
                raise kind(message["message"], hint=message["hint"])
        raise MountError("the server ended before the mount was ready")

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None after the last. `MountError` at the deadline."""
        while b"\n" not in self._pending:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._receiver], [], [], left)[0]:
                raise MountError("the mount did not answer in time; its server was ended")
            part = os.read(self._receiver, 65536)
            if not part:
                return None
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def end_daemon(self) -> None:
        """End the daemon by SIGTERM, else SIGKILL; return when it has ended."""
        if not self.pid:
            # Interrupted between fork and the first message, which comes at once.
            with contextlib.suppress(CfsError):
                message = self._next(time.monotonic() + _PATIENCE)
                self.pid = (message or {}).get("pid", 0)
        if not self.pid:
            return
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _KILLED)):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, number)
                if select.select([process], [], [], patience)[0]:
                    return
        finally:
            os.close(process)


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
        try:
            send({"ready": True})
        except BrokenPipeError:
            raise MountError("who asked for the mount went away before it was ready") from None
        told = True
        os.close(sender)

    def report(message: dict[str, Any]) -> None:
        try:
            send(message)
        except BrokenPipeError:  # nobody waits any more: into the log
            log.error("%s", message["message"])

    send({"pid": os.getpid()})
    try:
        serve(ready)
    except CfsError as error:
        if told:
            raise
        report({"error": type(error).__name__, "message": str(error), "hint": error.hint})
        return error.exit_code
    except OSError as error:
        if told:
            raise
        name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        report({"error": "SystemFailure", "message": f"{name}{error.strerror}", "hint": None})
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
