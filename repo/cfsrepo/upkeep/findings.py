"""What can be wrong with a repository, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What is wrong."""

    DAMAGED = "damaged"
    """An object's content does not have the digest that is its name."""
    MISSING = "missing"
    """An object that something refers to does not exist."""
    UNREADABLE = "unreadable"
    """The operating system cannot read it."""
    UNPROTECTED = "unprotected"
    """The policy requires fs-verity, and the file has none."""
    STRAY = "stray"
    """A file where none of this kind belongs."""
    BAD_LINK = "bad link"
    """A link in streams/ or images/ that points to no object, or not to that of its name."""
    BAD_NAME = "bad name"
    """A reference below refs/ to something that does not exist."""
    BAD_STREAM = "bad stream"
    """A stream that has its digest and still is none, or not the one of its name."""
    BAD_IMAGE = "bad image"
    """An image file that has its digest and still is none, or contradicts its objects."""
    BAD_PIN = "bad pin"
    """A pin that cannot be read; what its name says is kept until it is removed."""


@dataclass(frozen=True, slots=True)
class Need:
    """An image that needs an object."""

    name: str
    """A name of it, else its id or its manifest's digest."""
    image_id: str | None
    """None where what says it is damaged."""
    paths: tuple[bytes, ...]
    """Paths of the files with this content; none where the image needs it as a whole."""


@dataclass(slots=True)
class Problem:
    """One thing that is wrong."""

    kind: Kind
    path: str
    """In the repository."""
    detail: str = ""
    digest: bytes | None = None
    """The object that is missing or damaged."""
    streams: list[str] = field(default_factory=list)
    """Content ids of the streams that need it."""
    needs: list[Need] = field(default_factory=list)


@dataclass(slots=True)
class Checked:
    """The result of a check."""

    objects: int = 0
    """Objects whose content was checked."""
    size: int = 0
    """Bytes of them."""
    streams: int = 0
    images: int = 0
    names: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def bad_objects(self) -> set[bytes]:
        """Digests of all objects that are missing, damaged or cannot be read."""
        bad = (Kind.DAMAGED, Kind.MISSING, Kind.UNREADABLE)
        return {p.digest for p in self.problems if p.digest is not None and p.kind in bad}
