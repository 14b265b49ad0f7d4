"""The mark of a checkout: which image a bare-user tree was made of, and when it was complete.

The attribute `user.cfs.checkout` of the tree's directory, a line of ASCII:

    1 IMAGE STATE [PATH ...]

    1      version of the format
    IMAGE  id of the image, hex; `-` where the tree was made of something else
    STATE  `unfinished`, or a time in nanoseconds since 1970: of every file that was changed since,
           or came to another place together with its directory, the ctime, or the directory's, is
           not earlier. Edits and renames cannot set a ctime
    PATH   what was checked out of the image, escaped as in composefs-dump(5); without any: all

It is a note for `cfs status` and for finding interrupted checkouts, and no part of the tree: a tree
without it, or with one that cannot be read, is still a valid tree.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from typing import Final

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.escape import escape, unescape
from cfsrepo.system import linux
from cfsrepo.worktree import attributes

NAME: Final = "user.cfs.checkout"
_FORM: Final = re.compile(
    rb"1 (-|[0-9a-f]{64}|[0-9a-f]{128}) (unfinished|[0-9]{1,19})((?: [!-~]+)*)"
)
_TICKS: Final = 100  # milliseconds to wait at most for the file system's clock to move on


@dataclass(frozen=True, slots=True)
class CheckoutMark:
    """What a mark says; `finished_ns` is None for an unfinished tree."""

    image_id: str | None
    paths: tuple[bytes, ...] = ()
    finished_ns: int | None = None


def encode(mark: CheckoutMark) -> bytes:
    """The line of `mark`."""
    state = "unfinished" if mark.finished_ns is None else str(mark.finished_ns)
    return b" ".join([f"1 {mark.image_id or '-'} {state}".encode(), *map(escape, mark.paths)])


def decode(line: bytes) -> CheckoutMark | None:
    """What a line says; None for one that is no mark."""
    match = _FORM.fullmatch(line)
    if match is None:
        return None
    try:
        paths = tuple(map(unescape, match[3].split()))
    except ValueError:
        return None
    return CheckoutMark(
        None if match[1] == b"-" else match[1].decode(),
        paths,
        None if match[2] == b"unfinished" else int(match[2]),
    )


def read(directory: str | int) -> CheckoutMark | None:
    """The mark of a directory (a path, followed if it is a symlink, or a descriptor). OSError."""
    if isinstance(directory, str):
        with linux.opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
            return read(fd)
    line = attributes.read(directory, NAME)
    return None if line is None else decode(line)


def check_finished(path: str) -> None:
    """InputError where the tree in the directory `path` is unfinished."""
    mark = read(path)
    if mark is not None and mark.finished_ns is None:
        raise unfinished(path, mark)


def unfinished(path: str, mark: CheckoutMark) -> InputError:
    """The error for an unfinished tree."""
    what = f"checkout of {mark.image_id}" if mark.image_id else "tree"
    return InputError(
        f"{path}: an unfinished {what}",
        hint=f"'cfs checkout --force {mark.image_id or 'IMAGE'} {path}' replaces it, or remove it",
    )


def begin(fd: int, mark: CheckoutMark, shown: str) -> CheckoutMark:
    """Mark the directory behind `fd` as unfinished; returns the mark that fits into it."""
    mark = replace(mark, finished_ns=None)
    try:
        attributes.write(fd, encode(mark), shown, name=NAME)
    except LimitError:
        mark = CheckoutMark(None)  # too many paths to record: as a tree made of something else
        attributes.write(fd, encode(mark), shown, name=NAME)
    return mark


def finish(fd: int, mark: CheckoutMark, shown: str) -> None:
    """Mark the directory behind `fd`, in which all is done, as finished."""
    # Its clock moves in steps: wait for the next one, so that no file has the time of the mark.
    last = now = os.fstat(fd).st_ctime_ns
    for _ in range(_TICKS):
        attributes.write(fd, encode(mark), shown, name=NAME)
        now = os.fstat(fd).st_ctime_ns
        if now > last:
            break
        time.sleep(0.001)
    attributes.write(fd, encode(replace(mark, finished_ns=now)), shown, name=NAME)
