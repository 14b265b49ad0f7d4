"""Where a daemon's log goes, and how its lines look."""

from __future__ import annotations

import logging
import os

from cfsrepo.errors import SystemFailure

_FORMAT = "%(asctime)s cfs[%(process)d]: %(levelname)s: %(message)s"


def default_path() -> str:
    """/var/log/cfsfuse.log for root, else cfsfuse/cfsfuse.log in $XDG_STATE_HOME."""
    if os.geteuid() == 0:
        return "/var/log/cfsfuse.log"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "cfsfuse", "cfsfuse.log")


def open_log(path: str | None) -> tuple[int, str | None]:
    """(descriptor, path) of the log, opened for appending; directories are made.

    Without a `path` it is the default one, or /dev/null (path None) where that cannot be written:
    a home that is not writable is no reason not to mount. A given path must work.
    """
    chosen = default_path() if path is None else os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(chosen), exist_ok=True)
        fd = os.open(chosen, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if path is not None:
            raise SystemFailure(f"{chosen}: cannot be written: {error.strerror}") from error
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), None
    return fd, chosen


def configure(verbose: int) -> None:
    """Log to stderr what happens, warnings and errors; with `verbose` of 2 or more, details too."""
    level = logging.DEBUG if verbose > 1 else logging.INFO
    logging.basicConfig(level=level, format=_FORMAT, force=True)
