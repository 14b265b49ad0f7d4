"""Entry point of `cfs`: find the command, run it, and print errors as one line.

Only the module of the command that was asked for is imported, so that a small command starts fast.
`cfstools.options` says what there is to parse.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from cfsrepo import errors
from cfsrepo.errors import CfsError, UsageError, printable
from cfstools.deferred import defer
from cfstools.options import catalogue, parser

_DISTRIBUTION = "cfsfuse"


def main(argv: list[str] | None = None) -> int:
    """Run `cfs argv`; returns the exit code. Never raises for what a user can cause."""
    _open_standard_streams()
    if argv is None:
        argv = sys.argv[1:]
        if (program := os.path.basename(sys.argv[0])) in catalogue.PROGRAMS:
            return _run_program(program, argv, program, debug=False)
    try:
        line = parser.split(argv)
    except CfsError as error:
        return report(error)
    given = {option.attribute for option, _ in line.given}
    if line.command in catalogue.PROGRAMS and not given & {"help", "version"}:
        prog = f"cfs {line.command}"
        return _run_program(line.command, line.words, prog, debug="debug" in given)
    return _guarded(lambda: _run(line), debug="debug" in given or "--debug" in line.words)


def entry() -> NoReturn:
    """The program `cfs`: run the command line of this process, and end the process.

    Taking an interpreter down object by object costs more than a small command does. That is left
    out where nothing has work to do at the end: no thread, no child process, no temporary file.
    """
    # Modules leave little for the collector: it would look at them again and again.
    gc.disable()
    defer("inspect", "zstandard")
    code = main()
    needed = sys.modules.keys() & {"multiprocessing", "concurrent.futures", "tempfile", "logging"}
    threads = sys.modules.get("threading")
    if not needed and (threads is None or threads.active_count() == 1):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # was reported
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _run(line: parser.Line) -> int:
    """Parse the rest of the line and run its command."""
    given = {option.attribute for option, _ in line.given}
    if "version" in given:
        return _print_version()
    if line.command in ("", "help"):
        return _help(line, asked="help" in given or line.command == "help")
    if line.command not in catalogue.SUMMARIES:
        hint = "'cfs help' lists the commands"
        raise parser.unknown("unknown command", line.command, catalogue.SUMMARIES, hint)
    command = catalogue.command(line.command)
    args = parser.parse(command, line)
    if args.version:
        return _print_version()
    if args.help:
        from cfstools.options import helptext

        chosen = next((action for action in command.actions if action.name == args.action), None)
        if chosen is None:
            text = helptext.of_command(command)
        else:
            text = helptext.of_command(chosen, f"cfs {command.name}")
        sys.stdout.write(text)
        return errors.EXIT_OK
    module = importlib.import_module(catalogue.module_name(line.command))
    gc.freeze()
    gc.enable()
    code: int = module.run(args)
    return code


def _help(line: parser.Line, *, asked: bool) -> int:
    """`cfs help [COMMAND]`; the same on stderr, as wrong usage, where no command was given."""
    from cfstools.options import helptext

    words = [word for word in line.words if word not in ("-h", "--help")]
    if not asked:
        raise UsageError("no command", hint="'cfs help' lists the commands")
    if not words:
        sys.stdout.write(helptext.overview())
        return errors.EXIT_OK
    name = words[0]
    if name not in catalogue.SUMMARIES:
        hint = "'cfs help' lists the commands"
        raise parser.unknown("unknown command", name, catalogue.SUMMARIES, hint)
    sys.stdout.write(helptext.of_command(catalogue.command(name)))
    return errors.EXIT_OK


def _print_version() -> int:
    from importlib.metadata import version

    print(f"cfs {version(_DISTRIBUTION)}")
    return errors.EXIT_OK


def _run_program(name: str, argv: list[str], prog: str, *, debug: bool) -> int:
    """Run one of composefs's programs, as `prog`. Its exit status is the C tool's: 1 for any error.

    The options of that program are its own: they are not parsed here.
    """

    def run() -> int:
        module = importlib.import_module(catalogue.module_name(name))
        gc.enable()
        code: int = module.main(argv, prog)
        return code

    return _guarded(run, debug=debug, prog=prog, failed=1)


# --- errors --------------------------------------------------------------------------------------


def _guarded(
    run: Callable[[], int], *, debug: bool, prog: str = "cfs", failed: int | None = None
) -> int:
    """What `run` returns; its exceptions as a line on stderr and an exit code.

    `failed` is the exit code of all expected errors, where it is not the error's own.
    """
    try:
        try:
            code = run()
        finally:
            _clear_progress()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    except (CfsError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _end_by_sigpipe()
        if debug:
            _print_traceback()
        _drop_output()
        code = report(error, prog)
        return code if failed is None else failed
    except Exception as error:  # noqa: BLE001 - the last line of defence: a defect, said as one
        if debug:
            _print_traceback()
        text = printable(f"{type(error).__name__}: {error}")
        print(f"{prog}: defect in the program: {text} (--debug shows where)", file=sys.stderr)
        return errors.EXIT_DEFECT
    return code


def _clear_progress() -> None:
    """Take away the bars of a command that was given up: what is said of it needs a new line."""
    if (progress := sys.modules.get("cfstools.render.progress")) is not None:
        progress.clear()


def report(error: CfsError | OSError, prog: str = "cfs") -> int:
    """Print `error` as one line on stderr; returns the exit code that goes with it."""
    if isinstance(error, CfsError):
        text, hint, code = str(error), error.hint, error.exit_code
    else:
        code = errors.SystemFailure.exit_code
        name = printable(os.fsdecode(error.filename)) if error.filename is not None else None
        if name is None and error.errno == errno.EBADF:
            name = "standard output"  # the one descriptor that a caller can take away
        reason = error.strerror or str(error)
        text = f"{name}: {reason}" if name else reason
        hint = "free space on the file system and run it again" if _is_full(error) else None
    print(f"{prog}: {text}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    return code


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _print_traceback() -> None:
    import traceback  # slow to import, and seldom needed

    traceback.print_exc()


# --- standard streams ----------------------------------------------------------------------------


def _open_standard_streams() -> None:
    """Fill the places of standard streams that the caller closed (`cfs images >&-`).

    Else the next file that is opened, one of the repository perhaps, would get the descriptor that
    everything is printed to. Output then fails with EBADF, since nothing can be written to what was
    opened for reading; input reads as empty, and messages go nowhere.
    """
    places = (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))
    for fd, (name, flags) in enumerate(places):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != fd:  # the descriptor is in use, by whoever started this interpreter
                os.close(opened)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _drop_output() -> None:
    """Forget what could not be written to standard output: the interpreter would try again."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _end_by_sigpipe() -> None:
    """End as any Unix tool does whose reader went away (`cfs ls | head`).

    The signal is ignored until then, as Python has it: a server, or who writes to a child's pipe,
    must not be ended by the other side.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
