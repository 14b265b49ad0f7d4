"""Help texts, made from the table: of `cfs`, and of one command."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence

from cfstools.options import Argument, Command, Option, catalogue
from cfstools.options.common import GLOBAL

_INDENT = "  "
_COLUMN = 26


def width() -> int:
    """Columns of the terminal, for texts that are to be read easily."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        try:
            columns = os.get_terminal_size().columns
        except OSError:
            columns = 80
    return max(40, min(columns, 100))


def overview() -> str:
    """The help of `cfs` itself."""
    lines = ["usage: cfs [OPTION]... COMMAND [ARGUMENT]...", ""]
    lines += textwrap.wrap(
        "OCI images stored once, content-addressed by fs-verity digest, mounted without root or "
        "by the kernel.",
        width(),
    )
    for group in catalogue.GROUPS:
        lines += ["", f"{group.title}:"]
        lines += _rows(group.summaries.items())
        lines.append(f"{_INDENT}Example: {group.example}")
    lines += ["", "Options, before or after the command:", *_options(GLOBAL), ""]
    lines.append("'cfs help COMMAND' shows the options and examples of a command.")
    return "\n".join(lines) + "\n"


def of_command(command: Command, prefix: str = "cfs") -> str:
    """The help of `command`, or of an action of one (`prefix` is `cfs COMMAND`)."""
    shown = f"{prefix} {command.name}"
    lines = [f"usage: {usage}" for usage in usages(command, prefix)]
    lines += ["", *textwrap.wrap(command.summary[:1].upper() + command.summary[1:] + ".", width())]
    if command.description:
        lines += textwrap.wrap(command.description, width())
    for action in command.actions:
        lines += ["", f"{shown} {action.name}: {action.summary}", *_arguments(action.arguments)]
        lines += _options(action.options)
    if arguments := _arguments(command.arguments):
        lines += ["", "Arguments:", *arguments]
    if command.options:
        lines += ["", "Options:", *_options(command.options)]
    for title, rows in command.sections:
        lines += ["", f"{title}:", *_rows(rows)]
    if not command.foreign:
        lines += ["", "Options of all commands:", *_options(GLOBAL)]
    if command.examples:
        lines += ["", "Examples:"]
        lines += _rows((example.line, example.does) for example in command.examples)
    return "\n".join(lines) + "\n"


def usages(command: Command, prefix: str = "cfs") -> list[str]:
    """The command line in short; a line for each action, where there are actions."""
    shown = f"{prefix} {command.name}"
    if command.actions:
        return [line for action in command.actions for line in usages(action, shown)]
    words = [shown]
    if command.options or command.foreign:
        words.append("[OPTION]...")
    words += [place(argument) for argument in command.arguments]
    return [" ".join(words)]


def place(argument: Argument) -> str:
    """An argument in a usage line: `[PATH]`, `FILE...`."""
    return {
        "": argument.metavar,
        "?": f"[{argument.metavar}]",
        "*": f"[{argument.metavar}]...",
        "+": f"{argument.metavar}...",
    }[argument.nargs]


def flags(option: Option) -> str:
    """`-n, --dry-run`, `--repo DIR`."""
    text = ", ".join(option.flags)
    return f"{text} {option.value}" if option.value else text


def explained(option: Option | Argument) -> str:
    """The help of an option with its choices and its default."""
    notes = []
    if option.choices:
        notes.append("one of " + ", ".join(option.choices))
    if isinstance(option, Option) and option.initial and "default" not in option.help:
        notes.append(f"default: {option.initial}")
    return option.help + (f" ({'; '.join(notes)})" if notes else "")


def _arguments(arguments: Sequence[Argument]) -> list[str]:
    return _rows((argument.metavar, explained(argument)) for argument in arguments)


def _options(options: Sequence[Option]) -> list[str]:
    return _rows((flags(option), explained(option)) for option in options)


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for left, right in rows:
        first = f"{_INDENT}{left}"
        if len(first) > _COLUMN - 2:
            lines.append(first)
            first = ""
        lines += textwrap.wrap(
            right,
            width(),
            initial_indent=first.ljust(_COLUMN),
            subsequent_indent=" " * _COLUMN,
            break_on_hyphens=False,
        )
    return lines
