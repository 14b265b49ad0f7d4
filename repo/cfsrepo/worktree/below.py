"""Files below a directory, opened so that nothing leads out of it, and named in errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cfsrepo.errors import InputError, SystemFailure, printable
from cfsrepo.system import linux

RESOLVE: Final = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_STEP_MAX: Final = 4000  # bytes of a path that one system call takes


def open_below(root_fd: int, path: bytes, flags: int, resolve: int = RESOLVE) -> int:
    """Open `path` (relative; empty: the root itself) below `root_fd` through no symlink.

    A path of any length. InputError where something was exchanged for a symlink, SystemFailure
    where the kernel has no openat2, else OSError; with RESOLVE_NO_XDEV in `resolve` EXDEV where
    something is mounted on the way.
    """
    try:
        if len(path) <= _STEP_MAX:
            return linux.openat2(root_fd, path or b".", flags, resolve=resolve)
        fd = root_fd
        rest = path
        while rest:
            cut = len(rest) if len(rest) <= _STEP_MAX else rest.rindex(b"/", 0, _STEP_MAX)
            step, rest = rest[:cut], rest[cut + 1 :]
            try:
                below = linux.openat2(
                    fd, step, os.O_PATH | os.O_DIRECTORY if rest else flags, resolve=resolve
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
        mounted = error.errno == errno.EXDEV and resolve & linux.RESOLVE_NO_XDEV
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR) and not mounted:
            raise InputError(
                f"{printable(path)}: exchanged for something else while it was used"
            ) from error
        raise


def directories_below(root: str, root_fd: int) -> list[bytes]:
    """All directories in the directory `root`, open as `root_fd`, itself (empty) first, parents
    before what is in them. InputError where something is mounted on one; OSError."""
    directories = [b""]
    for path in directories:  # it grows meanwhile
        with _opened_directory(root, root_fd, path) as fd:
            found, _ = _listed(fd)
        directories += [path + b"/" + name if path else name for name in found]
    return directories


def remove_below(root: str, root_fd: int, directories: list[bytes]) -> None:
    """Remove everything in a directory; `directories` are those in it. InputError, OSError."""
    for path in reversed(directories):
        with _opened_directory(root, root_fd, path) as fd:
            below, files = _listed(fd)
            for name in files:
                _remove(os.unlink, root, path, name, fd)
            for name in below:
                _remove(os.rmdir, root, path, name, fd)


@contextmanager
def _opened_directory(root: str, root_fd: int, path: bytes) -> Iterator[int]:
    """A directory that is in the same mount as the root."""
    try:
        fd = open_below(root_fd, path, DIRECTORY, RESOLVE | linux.RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InputError(
                f"{shown(root, path)}: something is mounted here, so the tree is not removed",
                hint="unmount it first",
            ) from error
        raise named(error, root, path) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _listed(fd: int) -> tuple[list[bytes], list[bytes]]:
    """The names of the directories in a directory, and of all else."""
    found: tuple[list[bytes], list[bytes]] = ([], [])
    with os.scandir(fd) as listing:
        for entry in listing:
            found[not entry.is_dir(follow_symlinks=False)].append(os.fsencode(entry.name))
    return found


def _remove(remove: Callable[..., None], root: str, path: bytes, name: bytes, dir_fd: int) -> None:
    try:
        remove(name, dir_fd=dir_fd)
    except OSError as error:
        raise named(error, root, path + b"/" + name if path else name) from error


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
