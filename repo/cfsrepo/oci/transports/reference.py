"""What a user calls an image to pull: `oci:DIR[:REF]`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cfsrepo.errors import UsageError

_TRANSPORT = "oci:"


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An image in an OCI image layout: the directory, and which of its images (None: the only)."""

    directory: str
    ref: str | None

    def default_name(self) -> str:
        """What the image is called in a repository when the user gives it no name."""
        if self.ref is not None and ("/" in self.ref or ":" in self.ref):
            return self.ref
        base = os.path.basename(os.path.abspath(self.directory)) or "image"
        return f"{base}:{self.ref or 'latest'}"


def parse_reference(text: str) -> LayoutReference:
    """`oci:DIR[:REF]`. DIR may hold colons: the longest directory that exists is meant; where none
    does, what follows the last colon in the last part of the path is the REF."""
    if not text.startswith(_TRANSPORT):
        raise UsageError(
            f"{text}: unknown kind of image", hint="an image is named oci:DIR or oci:DIR:REF"
        )
    rest = text[len(_TRANSPORT) :]
    if "\0" in rest:
        raise UsageError(f"{text}: NUL in a name")
    end = len(rest)
    while end > 0:
        if os.path.isdir(rest[:end]):
            break
        end = rest.rfind(":", 0, end)
    if end <= 0:
        end = rest.rfind(":", rest.rfind("/") + 1)
        if end < 0:
            end = len(rest)
    directory, ref = rest[:end], rest[end + 1 :]
    if not directory or (end < len(rest) and not ref):
        raise UsageError(f"{text}: incomplete", hint="an image is named oci:DIR or oci:DIR:REF")
    return LayoutReference(directory, ref or None)
