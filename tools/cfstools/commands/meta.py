"""`cfs meta`: the records of a bare-user tree, shown, changed and checked."""

from __future__ import annotations

import base64
import os
import re
import stat
import sys
from collections.abc import Callable
from typing import TypeVar

from cfsrepo.errors import EXIT_FOUND, CfsError, UsageError, printable
from cfsrepo.formats.escape import escape, escape_xattr
from cfsrepo.formats.metarecord import Meta
from cfsrepo.worktree import recordedit
from cfsrepo.worktree.recordedit import Changes
from cfstools.options import Arguments
from cfstools.render.jsontext import listing

_TYPES = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def run(args: Arguments) -> int:
    """Do what `args.action` says."""
    if args.action == "show":
        return _show(args)
    if args.action == "check":
        return _check(args)
    xattrs: dict[bytes, bytes | None] = dict(_xattr(text) for text in args.xattr)
    xattrs.update(dict.fromkeys(os.fsencode(name) for name in args.remove_xattr))
    changes = Changes(
        mode=_converted(_mode, args.mode),
        kind=_converted(_TYPES.__getitem__, args.type),
        uid=_converted(_id, args.uid),
        gid=_converted(_id, args.gid),
        rdev=_converted(_device, args.device),
        mtime=_converted(_time, args.mtime),
        xattrs=xattrs,
    )
    if changes == Changes():
        raise UsageError("nothing to change", hint="cfs meta set --help lists what there is")
    for path in args.files:
        recordedit.change_record(path, changes)
    return 0


def _show(args: Arguments) -> int:
    code = 0
    with listing(args.json, _shown_record, _shown_line) as show:
        for path in _files(args.files, args.recursive):
            try:
                record = recordedit.read_record(path)
            except CfsError as error:
                print(f"cfs: {error}", file=sys.stderr)
                code = EXIT_FOUND
                continue
            show((path, record))
    return code


def _shown_line(shown: tuple[str, Meta | None]) -> str:
    path, record = shown
    return f"{'-' if record is None else _line(record)} {escape(os.fsencode(path)).decode()}"


def _shown_record(shown: tuple[str, Meta | None]) -> dict[str, object]:
    path, record = shown
    return {"path": path, "record": None if record is None else _fields(record)}


def _fields(record: Meta) -> dict[str, object]:
    fields: dict[str, object] = {
        "mode": f"{record.mode:06o}",
        "uid": record.uid,
        "gid": record.gid,
        "mtime": f"{record.mtime_sec}.{record.mtime_nsec:09}",
        "xattrs": {os.fsdecode(key): value.hex() for key, value in sorted(record.xattrs.items())},
    }
    if stat.S_ISCHR(record.mode) or stat.S_ISBLK(record.mode):
        fields["device"] = [os.major(record.rdev), os.minor(record.rdev)]
    return fields


def _files(paths: list[str], recursive: bool) -> list[str]:
    files = []
    for path in paths:
        files.append(path)
        if recursive:
            for parent, directories, names in os.walk(path):
                directories.sort()
                files += [os.path.join(parent, name) for name in sorted(directories + names)]
    return files


def _line(record: Meta) -> str:
    words = [
        _NAMES[stat.S_IFMT(record.mode)],
        f"{stat.S_IMODE(record.mode):04o}",
        f"{record.uid}:{record.gid}",
    ]
    if record.rdev or stat.S_ISCHR(record.mode) or stat.S_ISBLK(record.mode):
        words.append(f"{os.major(record.rdev)}:{os.minor(record.rdev)}")
    words.append(f"{record.mtime_sec}.{record.mtime_nsec:09d}")
    words += [
        f"{escape_xattr(key).decode()}={escape_xattr(value).decode()}"
        for key, value in sorted(record.xattrs.items())
    ]
    return " ".join(words)


def _check(args: Arguments) -> int:
    code = 0
    with listing(args.json, _problem_record, _problem_line) as show:
        for problem in recordedit.check_records(args.directory):
            show(problem)
            code = EXIT_FOUND
    return code


def _problem_record(problem: tuple[bytes, str]) -> dict[str, object]:
    return {"path": os.fsdecode(problem[0]), "problem": problem[1]}


def _problem_line(problem: tuple[bytes, str]) -> str:
    return f"{printable(problem[0])}: {problem[1]}"


# -- values of options ----------------------------------------------------------------------------


_Value = TypeVar("_Value")


def _converted(convert: Callable[[str], _Value], text: str | None) -> _Value | None:
    """The value of an option that may not be given."""
    return None if text is None else convert(text)


def _mode(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text):
        raise UsageError(f"--mode {text}: not permission bits in octal")
    return int(text, 8)


def _id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > 0xFFFFFFFF:
        raise UsageError(f"{text}: not a user or group id")
    return int(text)


def _device(text: str) -> int:
    match = re.fullmatch("([0-9]{1,4}):([0-9]{1,7})", text)
    if match is None or int(match[1]) >= 1 << 12 or int(match[2]) >= 1 << 20:
        raise UsageError(f"--device {text}: not a device number")
    return os.makedev(int(match[1]), int(match[2]))


def _time(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,9}))?", text)
    if match is None:
        raise UsageError(f"--mtime {text}: not a time in seconds")
    time = int(match[2]) * 1_000_000_000 + int((match[3] or "").ljust(9, "0"))
    return divmod(-time if match[1] else time, 1_000_000_000)


def _xattr(text: str) -> tuple[bytes, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--xattr {text}: not of the form NAME=VALUE")
    try:
        if value.startswith("0x"):
            data = bytes.fromhex(value[2:])
        elif value.startswith("0s"):
            data = base64.b64decode(value[2:], validate=True)
        else:
            data = os.fsencode(value)
    except ValueError as error:
        raise UsageError(f"--xattr {name}: {error}") from error
    return os.fsencode(name), data
