"""Errors that a user can meet: one class for a situation.

Every class carries its `exit_code`; every instance carries one line that says what failed on which
file, and, where there is one, a `hint` that says what to do next. Anything that is not a `CfsError`
(nor an `OSError`) is a defect of the program. `EXIT_CODES` is the table of all exit codes.
"""

from __future__ import annotations

import os

EXIT_OK = 0
EXIT_FOUND = 1
EXIT_USAGE = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_CODES = {
    EXIT_OK: "success",
    EXIT_FOUND: 'the answer is "no": differences found, damage found',
    EXIT_USAGE: "wrong usage of the command line",
    3: "the named thing does not exist (repository, image, path), or the name is ambiguous",
    4: "the input is damaged or hostile (layout, layer, dump, image)",
    5: "the repository is damaged or from a newer program",
    6: "the operating system refused (I/O, permission, disk full)",
    7: "a mount could not be made or ended",
    8: "the fs-verity policy cannot be met",
    9: "a registry cannot be reached, or refuses",
    EXIT_DEFECT: "defect in the program",
    EXIT_INTERRUPTED: "interrupted",
}


class CfsError(Exception):
    """Base of all expected failures. `str(error)` is one line, ready to be shown."""

    exit_code = EXIT_DEFECT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        # Names from inside images may hold anything; an error stays one printable line.
        return printable(super().__str__())


class UsageError(CfsError):
    """The request makes no sense, whatever the state of the disk."""

    exit_code = EXIT_USAGE


class NotFoundError(CfsError):
    """The named repository, image, tag or path does not exist, or the name is ambiguous."""

    exit_code = 3


class InputError(CfsError):
    """What came from outside (OCI layout, tar, dump, image) is damaged, hostile or unsupported."""

    exit_code = 4


class DigestMismatchError(InputError):
    """Bytes do not have the digest they were promised to have."""


class LimitError(InputError):
    """The input is well-formed but over a limit of the format."""


class RepositoryError(CfsError):
    """The repository is damaged, or was written by a newer program."""

    exit_code = 5


class SystemFailure(CfsError):  # noqa: N818 - SystemError is taken by Python
    """The operating system refused: I/O error, permission, disk full."""

    exit_code = 6


class MountError(CfsError):
    """A mount could not be made, reached or ended."""

    exit_code = 7


class VerityError(CfsError):
    """fs-verity is required and not to be had, or the kernel's measurement differs."""

    exit_code = 8


class TransportError(CfsError):
    """A registry cannot be reached, refuses, or does not keep to the protocol."""

    exit_code = 9


def printable(text: str | bytes) -> str:
    """`text` as one printable line: control characters and undecodable bytes become `\\xHH`."""
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if text.isprintable():
        return text
    out = []
    for char in text:
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        elif code <= 0xFF:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}")
    return "".join(out)
