"""Man pages of the commands: cfs(1), cfs-COMMAND(1), mount.cfs(8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cfsrepo.errors import EXIT_CODES
from cfstools.manual import roff
from cfstools.options import (
    Argument,
    Command,
    Option,
    catalogue,
    helptext,
    json_output,
    mount_options,
)
from cfstools.options.common import GLOBAL

_DESCRIPTION = """
cfs stores OCI images once, addressed by the fs-verity digest of their content, and gives three ways
to use them: to look into them without mounting, to mount them as any user by FUSE, and to mount
them as root by the kernel (EROFS and overlayfs), which then checks every byte.

A repository is a directory. It is that of composefs-rs: what cfs pulls, cfsctl can check and mount,
and the other way round. IMAGE is a name, a tag, an OCI digest or an image id, whole or a unique
prefix of hexadecimal digits.

Options may stand before or after the command and be mixed with arguments; after a word -- all words
are arguments. Long options may be shortened while they are unambiguous.

Results go to standard output, everything else to standard error. With --json a command prints one
JSON value, an object or an array, which its page describes. Bytes of names that are not UTF-8 are
lone surrogates there, as Python's os.fsdecode(3) has them.
"""
_ENVIRONMENT = (
    ("CFS_REPO", "The repository, where --repo is not given."),
    (
        "XDG_DATA_HOME",
        "The default repository is cfsfuse/repository below it (default: ~/.local/share).",
    ),
    (
        "XDG_STATE_HOME",
        "A user's FUSE servers log into cfsfuse/cfsfuse.log below it (default: ~/.local/state).",
    ),
    ("XDG_RUNTIME_DIR", "Running FUSE servers are recorded in cfsfuse below it."),
    ("TERM", "With 'dumb' progress is printed as plain lines, as it is into files and pipes."),
)
_MOUNT_HELPER = """
mount(8) calls mount.cfs for file systems of the type cfs, so that an image can be in fstab(5):

    app  /srv/app  cfs  repo=/var/lib/cfsfuse,digest=HEX,nosuid,nodev  0 0

IMAGE is the name of an image in the repository that repo= gives, as cfs(1) takes it. Root mounts by
the kernel unless an option asks for FUSE. The mount is writable with upperdir= and workdir=, or
with memory, unless ro is given; rw alone says nothing, since mount(8) adds it to everything that
has no ro.

mount.cfs is to be found in /sbin: link it there where it was installed elsewhere.
"""


def overview() -> str:
    """cfs(1)."""
    lines = roff.page("cfs", 1, "OCI images stored once, mounted without root or by the kernel")
    lines += [*roff.heading("Synopsis"), _synopsis("cfs [OPTION]... COMMAND [ARGUMENT]...")]
    lines += [*roff.heading("Description"), *roff.paragraphs(_DESCRIPTION)]
    lines += roff.heading("Commands")
    for group in catalogue.GROUPS:
        lines += [f'.SS "{roff.text(group.title)}"']
        lines += roff.terms(
            (f"cfs-{name}(1)", _sentence(summary)) for name, summary in group.summaries.items()
        )
        lines += ["For example:", *roff.literal([group.example])]
    lines += [*roff.heading("Options"), *roff.terms(_options(GLOBAL))]
    lines += [*roff.heading("Environment"), *roff.terms(_ENVIRONMENT)]
    lines += _exit_status()
    lines += roff.see_also(
        ["cfs-image(5)", "user.cfs.meta(5)", "mount.cfs(8)", "composefs-dump(5)", "fstab(5)"]
    )
    return roff.finish(lines)


def of_command(command: Command) -> str:
    """cfs-COMMAND(1)."""
    lines = roff.page(f"cfs-{command.name}", 1, command.summary)
    lines += roff.heading("Synopsis")
    for number, usage in enumerate(helptext.usages(command)):
        lines += [*([".br"] if number else []), _synopsis(usage)]
    lines += [*roff.heading("Description"), *roff.paragraphs(_sentence(command.summary))]
    lines += roff.paragraphs(command.description) if command.description else []
    for action in command.actions:
        lines += [*roff.heading(f"cfs {command.name} {action.name}"), _sentence(action.summary)]
        lines += roff.terms([*_arguments(action.arguments), *_options(action.options)])
    if command.arguments:
        lines += [*roff.heading("Arguments"), *roff.terms(_arguments(command.arguments))]
    if not command.foreign:
        lines += [*roff.heading("Options"), *roff.terms(_options(command.options))]
        lines += roff.paragraphs("The options of all commands (--repo, -q, -v) are in cfs(1).")
    lines += _json(command)
    for title, rows in command.sections:
        lines += [*roff.heading(title), *roff.terms((word, _sentence(does)) for word, does in rows)]
    lines += roff.heading("Examples")
    for example in command.examples:
        lines += [
            *roff.paragraphs(f"{_sentence(example.does)[:-1]}:"),
            *roff.literal([example.line]),
        ]
    lines += roff.see_also(["cfs(1)", *_related(command.name)])
    return roff.finish(lines)


def _json(command: Command) -> list[str]:
    """What is printed with --json."""
    lines: list[str] = []
    names = [command.name, *(f"{command.name} {action.name}" for action in command.actions)]
    for name in names:
        if name in json_output.SCHEMAS:
            schema = json_output.SCHEMAS[name]
            about = schema["description"]
            if schema["type"] == "array":
                about = f"an array: {about}; of each"
            lines += roff.heading(f"JSON of cfs {name}" if command.actions else "JSON output")
            lines += roff.paragraphs(f"With --json the command prints {about}:")
            lines += roff.terms(
                (field, _sentence(meaning)) for field, meaning in json_output.fields(schema)
            )
    return lines


def mount_helper() -> str:
    """mount.cfs(8)."""
    lines = roff.page("mount.cfs", 8, "mount an image as mount(8) asks for it")
    lines += [*roff.heading("Synopsis"), _synopsis("mount.cfs IMAGE DIR [-sfnv] [-o OPTION,...]")]
    lines += [*roff.heading("Description"), *roff.paragraphs(_MOUNT_HELPER)]
    lines += [*roff.heading("Options"), *roff.terms(_mount_words())]
    ignored = ", ".join(sorted(mount_options.IGNORED))
    lines += roff.paragraphs(
        f"These have nothing to do with the mount itself and are ignored: {ignored}, and all that "
        f"begin with {' or '.join(mount_options.IGNORED_PREFIXES[::2])}."
    )
    lines += roff.heading("Exit status")
    lines += roff.terms((("0", "Success."), ("1", "Wrong usage."), ("32", "The mount failed.")))
    lines += roff.see_also(["cfs-mount(1)", "cfs(1)", "fstab(5)", "mount(8)"])
    return roff.finish(lines)


def _synopsis(usage: str) -> str:
    """A usage line: what is typed in bold, what stands for something else in italics."""
    shown = []
    for word in usage.split(" "):
        letters = word.strip("[].|+")
        bold = not letters.isupper() and not word.startswith("[")
        shown.append(f"\\fB{roff.text(word)}\\fR" if bold else f"\\fI{roff.text(word)}\\fR")
    return " ".join(shown)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _options(options: Iterable[Option]) -> Iterator[tuple[str, str]]:
    for option in options:
        yield helptext.flags(option), _sentence(helptext.explained(option))


def _arguments(arguments: Iterable[Argument]) -> Iterator[tuple[str, str]]:
    for argument in arguments:
        yield helptext.place(argument), _sentence(helptext.explained(argument))


def _mount_words() -> Iterator[tuple[str, str]]:
    for word, row in mount_options.WORDS.items():
        kind = {"": "", "fuse": "FUSE mounts only", "kernel": "kernel mounts only"}[row.kind]
        meaning = f"{row.help} ({kind})" if kind else row.help
        yield (f"{word}={row.value}" if row.value else word), _sentence(meaning)


def _exit_status() -> list[str]:
    rows = ((str(code), _sentence(meaning)) for code, meaning in EXIT_CODES.items())
    return [*roff.heading("Exit status"), *roff.terms(rows)]


def _related(name: str) -> list[str]:
    """The pages of the other commands of the group, and of formats that the command is about."""
    group = next(group for group in catalogue.GROUPS if name in group.summaries)
    pages = [f"cfs-{other}(1)" for other in group.summaries if other != name]
    if group.table == "edit_commands":
        pages.append("user.cfs.meta(5)")
    if group.table == "composefs_commands":
        pages += ["cfs-image(5)", "composefs-dump(5)"]
    if name == "mount":
        pages.append("mount.cfs(8)")
    return pages
