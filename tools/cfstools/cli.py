"""Entry point of `cfs`: options common to all commands, dispatch, and errors as one line.

A command is a module in `cfstools.commands` with

    def add_arguments(parser: argparse.ArgumentParser) -> None
    def run(args: argparse.Namespace) -> int        # exit code

and a row in `COMMANDS`. Only the module of the command that was asked for is imported, so that a
small command starts fast.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import traceback

from cfsrepo import errors
from cfsrepo.errors import CfsError, printable

# command -> (module, one-line help), in the order of the help text
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "make a new repository"),
    "pull": ("pull", "pull an OCI image into the repository"),
    "images": ("images", "list the images of the repository"),
    "inspect": ("inspect", "show what is known of an image"),
    "tag": ("tag", "give an image another name"),
    "untag": ("untag", "remove a name of an image"),
    "pin": ("pin", "keep an image whatever happens to its names; list pins"),
    "unpin": ("unpin", "take a pin off again"),
    "gc": ("gc", "remove what no name, pin or mount needs"),
    "fsck": ("fsck", "check the repository, and repair it"),
    "du": ("du", "show what images cost and share"),
    "diff": ("diff", "compare two images or directories"),
    "clone": ("clone", "copy images to another repository"),
    "verity": ("verity", "show or enable the kernel's protection (fs-verity)"),
    "info": ("info", "show what the repository is"),
    "ls": ("ls", "list files of an image"),
    "cat": ("cat", "print a file of an image"),
    "mount": ("mount", "mount an image without root"),
    "umount": ("umount", "unmount"),
    "mounts": ("mounts", "list the mounts of images"),
    "checkout": ("checkout", "make an ordinary directory of an image, to edit without root"),
    "commit": ("commit", "make an image of such a directory"),
    "unpack": ("unpack", "make such a directory of layers"),
    "meta": ("meta", "show, change, check the owners and rights that files of it have"),
    "dump": ("dump", "print an image as composefs-dump(5) text"),
    "import-dump": ("import_dump", "make an image from composefs-dump(5) text"),
    "mkcomposefs": ("mkcomposefs", "make an image file: composefs's program of that name"),
    "composefs-info": ("composefs_info", "look into image files: composefs's program of that name"),
}
# Commands that take the arguments of the programs they are named after, and are these programs when
# `cfs` is called by their names. Their modules have, besides, `main(argv, prog) -> int`.
TOOLS = ("mkcomposefs", "composefs-info")


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; arguments of `command` only (None: of all)."""
    parser = argparse.ArgumentParser(
        prog="cfs",
        description="OCI images stored once, content-addressed by fs-verity digest, "
        "mounted without root or by the kernel.",
    )
    parser.add_argument(
        "--repo",
        metavar="DIR",
        help="the repository (default: $CFS_REPO, else cfsfuse/repository in $XDG_DATA_HOME)",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary)
        if command is None or command == name:
            importlib.import_module(f"cfstools.commands.{module}").add_arguments(sub)
    return parser


def _named_command(argv: list[str]) -> str | None:
    """The command that `argv` asks for, found without a parser; None where none is named."""
    return next((word for word in argv if word in COMMANDS), None)


def main(argv: list[str] | None = None) -> int:
    """Run `cfs argv`; returns the exit code. Never raises for what a user can cause."""
    # A reader that goes away (`cfs ls | head`) ends us as it ends any Unix tool.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if argv is None:
        argv = sys.argv[1:]
        if (program := os.path.basename(sys.argv[0])) in TOOLS:
            return _run_tool(program, argv, program, debug=False)
    command = _named_command(argv)
    if command in TOOLS:
        at = argv.index(command)
        before = make_parser(command).parse_args(argv[: at + 1])
        return _run_tool(command, argv[at + 1 :], f"cfs {command}", debug=before.debug)
    args = make_parser(command).parse_args(argv)
    module = importlib.import_module(f"cfstools.commands.{COMMANDS[args.command][0]}")
    try:
        code: int = module.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("cfs: interrupted", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    except (CfsError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        return report(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a defect, said as one
        if args.debug:
            traceback.print_exc()
        text = printable(f"{type(error).__name__}: {error}")
        print(f"cfs: defect in the program: {text} (--debug shows where)", file=sys.stderr)
        return errors.EXIT_DEFECT
    return code


def _run_tool(name: str, argv: list[str], prog: str, *, debug: bool) -> int:
    """Run one of `TOOLS`, under the name `prog`. Its exit status is the C tool's: 1 for any error.

    The options of that tool are its own: they are not parsed here.
    """
    module = importlib.import_module(f"cfstools.commands.{COMMANDS[name][0]}")
    try:
        code: int = module.main(argv, prog)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return errors.EXIT_INTERRUPTED
    except (CfsError, OSError) as error:
        if debug:
            traceback.print_exc()
        report(error, prog)
        return 1
    return code


def report(error: CfsError | OSError, prog: str = "cfs") -> int:
    """Print `error` as one line on stderr; returns the exit code that goes with it."""
    if isinstance(error, CfsError):
        text, hint, code = str(error), error.hint, error.exit_code
    else:
        code = errors.SystemFailure.exit_code
        name = printable(os.fsdecode(error.filename)) if error.filename is not None else None
        reason = error.strerror or str(error)
        text = f"{name}: {reason}" if name else reason
        hint = "free space on the file system and run it again" if _is_full(error) else None
    print(f"{prog}: {text}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    return code


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
