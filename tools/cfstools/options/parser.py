"""The parser: a command line to `Arguments`, as the table has it.

getopt(3) of the standard library takes the words apart, so that the conventions are GNU's: options
and arguments may be mixed, `--` ends options, long options may be shortened while they are
unambiguous. Options of all commands may stand before or after the command.

A line is parsed in steps: global options up to the first word that is none, which is the command;
then the rest by the declaration of that command alone. Nothing is guessed: a word is a command by
its place only, so that `cfs --repo images ls x` lists x of the repository `images`.
"""

from __future__ import annotations

import getopt
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from cfsrepo.errors import UsageError, printable
from cfstools.options import Argument, Arguments, Command, Option
from cfstools.options.common import GLOBAL

_Getopt = Callable[[list[str], str, list[str]], tuple[list[tuple[str, str]], list[str]]]


class Line(NamedTuple):
    """A command line whose command is known, and whose rest is not parsed yet."""

    command: str
    """Empty where there is no command."""
    given: list[tuple[Option, str]]
    """The options in front of the command."""
    words: list[str]
    """What follows the command."""


def split(argv: Sequence[str]) -> Line:
    """Find the command of a command line. Raises `UsageError` for options that are not global."""
    given, words = _lexed(getopt.getopt, argv, GLOBAL, "")
    return Line(words[0] if words else "", given, words[1:])


def parse(command: Command, line: Line) -> Arguments:
    """The values of a command line whose command is `command`. Raises `UsageError`."""
    given, words, action, shown = list(line.given), line.words, "", command.name
    if command.actions:
        more, words = _lexed(getopt.getopt, words, GLOBAL, shown)
        given += more
        if any(option.attribute in ("help", "version") for option, _ in given):
            return _values(command, given, action)
        command = _action(command, words, shown)
        action, words = command.name, words[1:]
        shown += f" {action}"
    options = (*command.options, *GLOBAL)
    more, words = _lexed(getopt.gnu_getopt, words, options, shown)
    arguments = _values(command, [*given, *more], action)
    if not (arguments.help or arguments.version):
        _check_exclusive(command, more, shown)
        _place(arguments, command.arguments, words, shown)
    return arguments


def unknown(what: str, word: str, known: Iterable[str], hint: str) -> UsageError:
    """The error for a word that is none of `known`; with the nearest one, where one is near."""
    import difflib  # only when it went wrong

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return UsageError(
        f"{what}: {printable(word)}", hint=f"did you mean {near[0]}?" if near else hint
    )


# --- options -------------------------------------------------------------------------------------


def _lexed(
    words_apart: _Getopt, argv: Sequence[str], options: Iterable[Option], shown: str
) -> tuple[list[tuple[Option, str]], list[str]]:
    """The options in `argv`, and the words that are none."""
    by_flag = {flag: option for option in options for flag in option.flags}
    short = "".join(
        flag[1:] + (":" if option.value else "")
        for flag, option in by_flag.items()
        if not flag.startswith("--")
    )
    long = [
        flag[2:] + ("=" if option.value else "")
        for flag, option in by_flag.items()
        if flag.startswith("--")
    ]
    try:
        found, words = words_apart(list(argv), short, long)
    except getopt.GetoptError as error:
        raise _explained(error, by_flag, shown) from None
    return [(by_flag[flag], value) for flag, value in found], words


def _explained(error: getopt.GetoptError, by_flag: dict[str, Option], shown: str) -> UsageError:
    flag = f"--{error.opt}" if len(error.opt) > 1 else f"-{error.opt}"
    where = f"{shown}: " if shown else ""
    hint = _help_hint(shown) if shown else "the options of a command follow its name"
    if "not recognized" in error.msg:
        return unknown(f"{where}unknown option", flag, by_flag, hint)
    if "not a unique prefix" in error.msg:
        near = ", ".join(sorted(known for known in by_flag if known.startswith(flag)))
        return UsageError(f"{where}{flag} could be any of {near}")
    if "must not have an argument" in error.msg:
        return UsageError(f"{where}{flag} takes no value")
    return UsageError(f"{where}{flag} needs a value")


def _values(command: Command, given: Iterable[tuple[Option, str]], action: str) -> Arguments:
    """The attributes of all options; those of the arguments are not set yet."""
    values: dict[str, Any] = {"command": command.name, "action": action}
    for option in (*GLOBAL, *command.options):
        values[option.attribute] = option.initial
    for option, value in given:
        name = option.attribute
        if option.choices and value not in option.choices:
            raise no_choice(option.flags[-1], value, option.choices)
        if not option.repeated:
            values[name] = value if option.value else option.sets
        elif option.value:
            values[name] = [*values[name], value]
        else:
            values[name] += 1
    return Arguments(**values)


def no_choice(what: str, value: str, choices: Sequence[str]) -> UsageError:
    return unknown(f"{what}: no such choice", value, choices, f"choose from {', '.join(choices)}")


def _check_exclusive(command: Command, given: Iterable[tuple[Option, str]], shown: str) -> None:
    flags = {option.attribute: option.flags[-1] for option, _ in given}
    for attributes in command.exclusive:
        several = [flags[name] for name in attributes if name in flags]
        if len(several) > 1:
            raise UsageError(f"{shown}: {several[0]} and {several[1]} exclude each other")


# --- arguments -----------------------------------------------------------------------------------


def _action(command: Command, words: Sequence[str], shown: str) -> Command:
    names = [action.name for action in command.actions]
    if not words:
        raise UsageError(f"{shown}: what to do? {', '.join(names)}", hint=_help_hint(shown))
    for action in command.actions:
        if action.name == words[0]:
            return action
    hint = f"choose from {', '.join(names)}"
    raise unknown(f"{shown}: unknown action", words[0], names, hint)


def _place(
    arguments: Arguments, declared: Sequence[Argument], words: Sequence[str], shown: str
) -> None:
    """Give each argument its words: one that takes many gets what the others leave."""
    needed = sum(argument.nargs in ("", "+") for argument in declared)
    if len(words) < needed:
        required = [argument.metavar for argument in declared if argument.nargs in ("", "+")]
        raise UsageError(f"{shown}: {required[len(words)]} is missing", hint=_help_hint(shown))
    left = len(words) - needed
    at = 0
    for argument in declared:
        most = left if argument.nargs in ("*", "+") else min(left, argument.nargs == "?")
        left -= most
        take = most + (argument.nargs in ("", "+"))
        taken = list(words[at : at + take])
        at += take
        for word in taken:
            if argument.choices and word not in argument.choices:
                raise no_choice(f"{shown}: {argument.metavar}", word, argument.choices)
        value = taken if argument.nargs in ("*", "+") else next(iter(taken), argument.default)
        setattr(arguments, argument.name, value)
    if left:
        raise UsageError(
            f"{shown}: {printable(words[at])}: one word too many", hint=_help_hint(shown)
        )


def _help_hint(shown: str) -> str:
    return f"'cfs {shown} --help' shows what it takes"
