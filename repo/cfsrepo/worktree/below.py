"""Files below a directory, opened so that nothing leads out of it, and named in errors."""

from __future__ import annotations

import errno
import os
from typing import Final

from cfsrepo.errors import InputError, SystemFailure, printable
from cfsrepo.system import linux

RESOLVE: Final = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_STEP_MAX: Final = 4000  # bytes of a path that one system call takes


def open_below(root_fd: int, path: bytes, flags: int) -> int:
    """Open `path` (relative; empty: the root itself) below `root_fd` through no symlink.

    A path of any length. InputError where something was exchanged for a symlink or another file
    system's root, SystemFailure where the kernel has no openat2, else OSError.
    """
    try:
        if len(path) <= _STEP_MAX:
            return linux.openat2(root_fd, path or b".", flags, resolve=RESOLVE)
        fd = root_fd
        rest = path
        while rest:
            cut = len(rest) if len(rest) <= _STEP_MAX else rest.rindex(b"/", 0, _STEP_MAX)
            step, rest = rest[:cut], rest[cut + 1 :]
            try:
                below = linux.openat2(
                    fd, step, os.O_PATH | os.O_DIRECTORY if rest else flags, resolve=RESOLVE
                )
            finally:
                if fd != root_fd:
                    os.close(fd)
            fd = below
        return fd
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise SystemFailure(
                "this kernel has no openat2, without which using a tree would not be safe",
                hint="Linux 5.6 or later has it",
            ) from error
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise InputError(
                f"{printable(path)}: exchanged for something else while it was used"
            ) from error
        raise


def remove_below(root: str, root_fd: int) -> None:
    """Remove everything in the directory `root`, open as `root_fd`, however deep. OSError."""
    directories = [b""]
    for path in directories:  # it grows meanwhile: parents come before what is in them
        fd = _opened_directory(root, root_fd, path)
        try:
            with os.scandir(fd) as listing:
                found = list(listing)
            for entry in found:
                name = os.fsencode(entry.name)
                below = path + b"/" + name if path else name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(below)
                    else:
                        os.unlink(name, dir_fd=fd)
                except OSError as error:
                    raise named(error, root, below) from error
        finally:
            os.close(fd)
    for path in reversed(directories[1:]):
        parent, _, name = path.rpartition(b"/")
        fd = _opened_directory(root, root_fd, parent)
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            raise named(error, root, path) from error
        finally:
            os.close(fd)


def _opened_directory(root: str, root_fd: int, path: bytes) -> int:
    try:
        return open_below(root_fd, path, DIRECTORY)
    except OSError as error:
        raise named(error, root, path) from error


def shown(root: str, path: bytes) -> str:
    """The file `path` below the directory `root`, for a message."""
    return printable(os.path.join(os.fsencode(root), path) if path else root)


def named(error: OSError, root: str, path: bytes) -> OSError:
    """`error` with the whole path of the file."""
    whole = os.path.join(os.fsencode(root), path) if path else os.fsencode(root)
    return OSError(error.errno, error.strerror, os.fsdecode(whole))


def changed(root: str, path: bytes) -> InputError:
    """The error for a file that is another, or has other content, than a moment ago."""
    return InputError(f"{shown(root, path)}: changed while it was read", hint="run it again")
