"""The grammar of `cfs` as data: the types of which the table of commands is made.

The table makes everything that knows the grammar: the parser (`parser`), the help texts
(`helptext`), the man pages and the completions (`cfstools.manual`). It has no code of the commands
in it and imports the standard library only, so that each of these can be made without them.

    catalogue.py            groups and names of the commands, with a summary each
    *_commands.py           arguments and options of the commands of one group
    common.py               options of all commands, and arguments that several commands have
    mount_options.py        options of a mount, as flags and as `-o`

To add a command: a row in `catalogue`, a `Command` in the table of its group, and a module of its
name in `cfstools.commands` with `run(args: Arguments) -> int`, which returns the exit code.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

# Named tuples, not dataclasses: every start of `cfs` makes the values of one group.


class Arguments(SimpleNamespace):
    """The command line of one command: an attribute for each argument and option of the table.

    `command` is the name of the command; `action` that of the action, where the command has some.
    """


class Argument(NamedTuple):
    """A word that is known by its place."""

    name: str
    """The attribute of `Arguments`."""
    metavar: str
    help: str = ""
    nargs: str = ""
    """How many: one (`""`), one or none (`"?"`), any number (`"*"`), one or more (`"+"`). With
    `*` and `+` the value is a list."""
    default: object = None
    """The value where the word is not given."""
    choices: tuple[str, ...] = ()
    completes: str = ""
    """What a shell offers: `image`, `file`, `directory`, `mount`, `pin`, `command`,
    `mount-option`; or nothing."""


class Option(NamedTuple):
    """A word that begins with `-`."""

    flags: tuple[str, ...]
    """Short and long forms; the last one names the attribute, unless `name` does."""
    help: str
    value: str = ""
    """What its value is called in help texts; without one the option is a switch."""
    name: str = ""
    default: object = ...
    """The value where the option is not given. Without one: False of a switch, None of an option
    with a value, [] of a repeated one."""
    choices: tuple[str, ...] = ()
    repeated: bool = False
    """The value is a list of what was given; a switch counts how often it was given."""
    sets: object = True
    """What a switch sets."""
    completes: str = ""

    @property
    def attribute(self) -> str:
        """The attribute of `Arguments`."""
        return self.name or self.flags[-1].lstrip("-").replace("-", "_")

    @property
    def initial(self) -> object:
        """The value where the option is not given."""
        if self.default is not ...:
            return self.default
        if self.repeated:
            return [] if self.value else 0
        return None if self.value else False


class Example(NamedTuple):
    """A command line that does something useful, and what that is."""

    line: str
    does: str


class Command(NamedTuple):
    """A command, or an action of one."""

    name: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    exclusive: tuple[tuple[str, ...], ...] = ()
    """Sets of attributes of which only one may be given."""
    examples: tuple[Example, ...] = ()
    description: str = ""
    """Paragraphs for help and man page, after the summary."""
    sections: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    """More lists for help and man page: a title, and words with what they mean."""
    actions: tuple[Command, ...] = ()
    """Commands of the second level: `cfs meta set`. They have the arguments, not the command."""
    summary: str = ""
    """Of actions; those of commands are in the catalogue."""
    foreign: bool = False
    """A program of composefs: its arguments are its own, and are not parsed here."""
