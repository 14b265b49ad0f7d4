"""The options of a mount, each once: a flag of `cfs mount`, a word of `-o` and fstab, or both.

The table makes the flags of `cfs mount`, the parser of `-o`, and what help, man pages and
completion say of both. `cfstools.mountrequest` makes of the values what the two kinds of mount
take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cfsrepo.errors import UsageError, printable
from cfstools.options import Option
from cfstools.options.common import OBJECTS
from cfstools.options.parser import no_choice, unknown


class MountOption(NamedTuple):
    """An option of a mount."""

    help: str
    flag: str = ""
    """As an option of `cfs mount`: `--uid`."""
    word: str = ""
    """In `-o` and fstab: `uid`."""
    value: str = ""
    """What its value is called; without one the option is a switch."""
    kind: str = ""
    """`fuse` or `kernel` where only that kind of mount has it, and giving it asks for that kind."""
    attribute: str = ""
    sets: object = True
    choices: tuple[str, ...] = ()
    default: object = ...
    completes: str = ""

    @property
    def name(self) -> str:
        """The key of its value."""
        return self.attribute or (self.flag or self.word).lstrip("-").replace("-", "_")


FUSE, KERNEL = "fuse", "kernel"

TABLE = (
    # Which kind of mount
    MountOption("mount by FUSE, the default for all users but root", "--fuse", "fuse", kind=FUSE),
    MountOption("mount by the kernel, the default for root", "--kernel", "kernel", kind=KERNEL),
    # Both kinds
    MountOption("the repository", word="repo", value="DIR"),
    MountOption(
        "show ids from IMAGE on as ids from MOUNT on, others as 65534; a kernel mount also takes a "
        "user namespace, as a process id or /proc/PID/ns/user; in -o a comma is written \\,",
        "--idmap",
        "idmap",
        "[u:|g:]IMAGE:MOUNT:COUNT,...",
    ),
    MountOption(
        "read-only; with upperdir= the changes are shown", word="ro", attribute="access", sets="ro"
    ),
    MountOption("obey set-user-id bits", word="suid", attribute="suid"),
    MountOption("ignore set-user-id bits", word="nosuid", attribute="suid", sets=False),
    MountOption("let device nodes be opened", word="dev", attribute="dev"),
    MountOption("do not let device nodes be opened", word="nodev", attribute="dev", sets=False),
    MountOption("let programs be executed", word="exec", attribute="exec"),
    MountOption("do not let programs be executed", word="noexec", attribute="exec", sets=False),
    MountOption("update access times (kernel mount)", word="atime", attribute="atime"),
    MountOption("keep access times (kernel mount)", word="noatime", attribute="atime", sets=False),
    # FUSE mounts
    MountOption(
        OBJECTS.help,
        OBJECTS.flags[0],
        value=OBJECTS.value,
        kind=FUSE,
        completes=OBJECTS.completes,
    ),
    MountOption("serve in this process, log to stderr", "--foreground", kind=FUSE),
    MountOption(
        "who checks each object's digest: the kernel where it can, else cfs (auto, the default); "
        "always cfs; or nobody",
        "--verify",
        "verify",
        "WHO",
        FUSE,
        choices=("auto", "always", "off"),
    ),
    MountOption(
        "let other users use the mount; the kernel then checks owner and mode for everybody, you "
        "included (see uid=), unless no_enforce is given",
        word="allow_other",
        kind=FUSE,
    ),
    MountOption(
        "with allow_other: let every user read every file, whatever its mode",
        word="no_enforce",
        kind=FUSE,
    ),
    MountOption(
        "let the kernel check owner and mode, instead of showing everything to you",
        "--enforce-permissions",
        "enforce_permissions",
        kind=FUSE,
    ),
    MountOption("show everything as owned by this user id", "--uid", "uid", "N", FUSE),
    MountOption("show everything as owned by this group id", "--gid", "gid", "N", FUSE),
    MountOption("this directory of the image is the root", "--subdir", "subdir", "PATH", FUSE),
    MountOption(
        "which FUSE server: pyfuse3 (the default) or direct",
        "--engine",
        "engine",
        "NAME",
        FUSE,
        choices=("direct", "pyfuse3"),
    ),
    MountOption(
        "log of the server (default: /var/log/cfsfuse.log for root, else cfsfuse/cfsfuse.log in "
        "$XDG_STATE_HOME)",
        "--log",
        value="FILE",
        kind=FUSE,
        completes="file",
    ),
    # Kernel mounts
    MountOption(
        "the kernel compares every file with the image by fs-verity; default: on where the "
        "repository's policy is 'require' or the image file has fs-verity",
        "--require-verity",
        "verity",
        kind=KERNEL,
        default=None,
    ),
    MountOption(
        "do not have the kernel compare files with the image",
        "--no-require-verity",
        "noverity",
        kind=KERNEL,
        attribute="require_verity",
        sets=False,
        default=None,
    ),
    MountOption(
        "refuse an image with another id than this; implies --require-verity",
        "--digest",
        "digest",
        "HEX",
        KERNEL,
    ),
    MountOption(
        "writable; changes are in memory and go with the mount",
        "--rw",
        "memory",
        kind=KERNEL,
    ),
    MountOption(
        "writable: with upperdir= changes are kept there, else in memory",
        word="rw",
        kind=KERNEL,
        attribute="access",
        sets="rw",
    ),
    MountOption(
        "writable; changes are kept in DIR (with --work)",
        "--upper",
        "upperdir",
        "DIR",
        KERNEL,
        completes="directory",
    ),
    MountOption(
        "an empty directory on the file system of --upper",
        "--work",
        "workdir",
        "DIR",
        KERNEL,
        completes="directory",
    ),
    MountOption("with --upper: show the changes, take no new ones", "--read-only", kind=KERNEL),
    MountOption(
        "what makes the mount: builtin (auto), or the C program mount.composefs",
        "--helper",
        "helper",
        "NAME",
        KERNEL,
        choices=("auto", "mount.composefs", "builtin"),
    ),
)
# What fstab and mount(8) may add and the mount itself has nothing to do with.
IGNORED = frozenset(
    {
        *("auto", "noauto", "defaults", "nofail", "owner", "relatime", "_netdev"),
        *("user", "nouser", "users"),
    }
)
IGNORED_PREFIXES = ("x-", "X-", "comment=")

FLAGS = tuple(
    Option(
        (row.flag,),
        row.help,
        row.value,
        name=row.name,
        default=row.default,
        choices=row.choices,
        sets=row.sets,
        completes=row.completes,
    )
    for row in TABLE
    if row.flag
)
WORDS = {row.word: row for row in TABLE if row.word}


def documented() -> Iterator[tuple[str, str]]:
    """The words of `-o`, with their values, and what they do."""
    for word, row in WORDS.items():
        shown = f"{word}={row.value}" if row.value else word
        yield shown, f"as {row.flag}" if row.flag else row.help


def parse(options: Iterable[str]) -> dict[str, tuple[MountOption, object]]:
    """The values of comma lists (`-o A,B=C`) by name, each with the option that gave it.

    Later ones win. Raises `UsageError`.
    """
    given: dict[str, tuple[MountOption, object]] = {}
    for text in split(options):
        word, equals, value = text.partition("=")
        row = WORDS.get(word)
        if row is None:
            if text in IGNORED or text.startswith(IGNORED_PREFIXES):
                continue
            raise unknown("unknown option of -o", text, WORDS, "'cfs help mount' lists them")
        if row.value and not value:
            raise UsageError(f"-o {printable(text)}: needs a value: {word}={row.value}")
        if equals and not row.value:
            raise UsageError(f"-o {printable(text)}: {word} takes no value")
        if row.choices and value not in row.choices:
            raise no_choice(f"-o {word}", value, row.choices)
        given[row.name] = (row, value if row.value else row.sets)
    return given


def split(options: Iterable[str]) -> Iterator[str]:
    """The options of comma lists; `\\,` is a comma inside a value."""
    for text in options:
        for part in text.replace("\\,", "\0").split(","):
            if part:
                yield part.replace("\0", ",")
