"""`cfs meta`: the records of a bare-user tree, shown, changed and checked."""

from __future__ import annotations

import argparse
import base64
import os
import re
import stat
import sys

from cfsrepo.errors import EXIT_FOUND, CfsError, UsageError, printable
from cfsrepo.formats.escape import escape, escape_xattr
from cfsrepo.formats.metarecord import Meta
from cfsrepo.worktree import recordedit
from cfsrepo.worktree.recordedit import Changes

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cfs meta`."""
    actions = parser.add_subparsers(dest="action", metavar="show|set|check", required=True)
    show = actions.add_parser("show", help="print records, a line a file")
    show.add_argument("-r", "--recursive", action="store_true", help="and of all that is below")
    show.add_argument("files", metavar="FILE", nargs="+")

    change = actions.add_parser("set", help="change records, or give files one")
    change.add_argument("--mode", type=_mode, help="permission bits, octal: 4755")
    change.add_argument("--uid", type=_id)
    change.add_argument("--gid", type=_id)
    change.add_argument("--type", choices=list(_TYPES), help="what the file stands for")
    change.add_argument(
        "--device", metavar="MAJOR:MINOR", type=_device, help="with --type=char or block"
    )
    change.add_argument("--mtime", metavar="SECONDS[.FRACTION]", type=_time)
    change.add_argument(
        "--xattr",
        metavar="NAME=VALUE",
        type=_xattr,
        action="append",
        default=[],
        help="an extended attribute; VALUE is text, 0xHEX or 0sBASE64, as setfattr has it",
    )
    change.add_argument(
        "--remove-xattr", metavar="NAME", type=os.fsencode, action="append", default=[]
    )
    change.add_argument("files", metavar="FILE", nargs="+")

    check = actions.add_parser("check", help="look for records that are damaged or do not fit")
    check.add_argument("directory", metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Do what `args.action` says."""
    if args.action == "show":
        return _show(args)
    if args.action == "check":
        return _check(args)
    xattrs: dict[bytes, bytes | None] = dict(args.xattr)
    xattrs.update(dict.fromkeys(args.remove_xattr))
    changes = Changes(
        mode=args.mode,
        kind=None if args.type is None else _TYPES[args.type],
        uid=args.uid,
        gid=args.gid,
        rdev=args.device,
        mtime=args.mtime,
        xattrs=xattrs,
    )
    if changes == Changes():
        raise UsageError("nothing to change", hint="cfs meta set --help lists what there is")
    for path in args.files:
        recordedit.change_record(path, changes)
    return 0


def _show(args: argparse.Namespace) -> int:
    code = 0
    for path in _files(args.files, args.recursive):
        try:
            record = recordedit.read_record(path)
        except CfsError as error:
            print(f"cfs: {error}", file=sys.stderr)
            code = EXIT_FOUND
            continue
        what = "-" if record is None else _line(record)
        print(f"{what} {escape(os.fsencode(path)).decode()}")
    return code


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


def _check(args: argparse.Namespace) -> int:
    code = 0
    for path, what in recordedit.check_records(args.directory):
        print(f"{printable(path)}: {what}")
        code = EXIT_FOUND
    return code


# -- values of options ----------------------------------------------------------------------------


def _mode(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text):
        raise argparse.ArgumentTypeError(f"no permission bits in octal: {text}")
    return int(text, 8)


def _id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > 0xFFFFFFFF:
        raise argparse.ArgumentTypeError(f"no id: {text}")
    return int(text)


def _device(text: str) -> int:
    match = re.fullmatch("([0-9]{1,4}):([0-9]{1,7})", text)
    if match is None or int(match[1]) >= 1 << 12 or int(match[2]) >= 1 << 20:
        raise argparse.ArgumentTypeError(f"no device number: {text}")
    return os.makedev(int(match[1]), int(match[2]))


def _time(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,9}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"no time in seconds: {text}")
    time = int(match[2]) * 1_000_000_000 + int((match[3] or "").ljust(9, "0"))
    return divmod(-time if match[1] else time, 1_000_000_000)


def _xattr(text: str) -> tuple[bytes, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"no NAME=VALUE: {text}")
    try:
        if value.startswith("0x"):
            data = bytes.fromhex(value[2:])
        elif value.startswith("0s"):
            data = base64.b64decode(value[2:], validate=True)
        else:
            data = os.fsencode(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from error
    return os.fsencode(name), data
