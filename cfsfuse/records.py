"""What the server of a mount leaves for others to find while it runs: its record and its numbers.

    $XDG_RUNTIME_DIR/cfsfuse/PID.json    the record: a JSON object, see `Record`
    $XDG_RUNTIME_DIR/cfsfuse/PID.sock    a socket that answers a connection with its numbers

Where the variable is not set: /run/cfsfuse for root, else /tmp/cfsfuse-UID, which must belong to
the user and be closed to others. A record whose process is gone belonged to a server that was
killed; whoever meets it removes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from cfsrepo.errors import SystemFailure
from cfsrepo.system.processes import boot_id, process_start_time

log = logging.getLogger(__name__)

_SIZE_MAX = 64 << 10
_ANSWER_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """A server and its mount. Paths are in the spelling of `os.fsdecode`."""

    pid: int
    start_time: int  # of the process, see cfsrepo.system.processes
    boot_id: str
    mount_point: str
    name: str  # of the image, as the user called it
    image_id: str | None
    repository: str | None
    engine: str
    verify: str
    options: list[str]
    log: str | None

    @property
    def is_live(self) -> bool:
        """Whether the server runs."""
        return self.boot_id == boot_id() and process_start_time(self.pid) == self.start_time


def directory() -> str:
    """The directory of records, made if missing. Raises `SystemFailure` where it is not ours.

    Somebody else may have made the one in /tmp, to be in our way: what only looks at records goes
    on without them.
    """
    uid = os.geteuid()
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and os.stat(base).st_uid == uid:
        path = os.path.join(base, "cfsfuse")
    else:
        path = "/run/cfsfuse" if uid == 0 else f"/tmp/cfsfuse-{uid}"  # noqa: S108 - checked below
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o022:
        raise SystemFailure(
            f"{path}: not a directory of ours that others cannot write to",
            hint="remove it, or set XDG_RUNTIME_DIR",
        )
    return path


@contextmanager
def published(record: Record, numbers: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Let others find `record` and ask for `numbers()`, which another thread calls."""
    base = os.path.join(directory(), str(record.pid))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with listener:
        _remove(f"{base}.sock")
        listener.bind(f"{base}.sock")
        listener.listen(8)
        with open(f"{base}.tmp", "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
        os.rename(f"{base}.tmp", f"{base}.json")
        threading.Thread(
            target=_answer, args=(listener, numbers), name="numbers", daemon=True
        ).start()
        try:
            yield
        finally:
            _remove(f"{base}.json")
            _remove(f"{base}.sock")
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _answer(listener: socket.socket, numbers: Callable[[], dict[str, Any]]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # shut down
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_ANSWER_TIMEOUT)
            connection.sendall(json.dumps(numbers()).encode())


def records() -> list[Record]:
    """The records of this user's servers that run; those of killed ones are removed.

    Empty, with a warning in the log, where the directory of records is not ours or unusable.
    """
    found = []
    try:
        base = directory()
        names = sorted(os.listdir(base))
    except (SystemFailure, OSError) as error:
        log.warning("the records of running servers cannot be read: %s", error)
        return []
    for name in names:
        if not name.endswith(".json"):
            continue
        path = os.path.join(base, name)
        record = _read(path)
        if record is not None and record.is_live:
            found.append(record)
        else:
            _remove(path)
            _remove(f"{path.removesuffix('.json')}.sock")
    return found


def numbers_of(record: Record) -> dict[str, Any] | None:
    """The numbers of a server; None where it does not answer in time."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_TIMEOUT)
            connection.connect(os.path.join(directory(), f"{record.pid}.sock"))
            data = b""
            while len(data) < _SIZE_MAX and (part := connection.recv(_SIZE_MAX)):
                data += part
        value = json.loads(data)
    except (OSError, ValueError, SystemFailure):
        return None
    return value if isinstance(value, dict) else None


def _read(path: str) -> Record | None:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_SIZE_MAX))
        return Record(**{field.name: value[field.name] for field in fields(Record)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
