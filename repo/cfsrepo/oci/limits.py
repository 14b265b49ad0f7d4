"""What the layers of an image may cost: memory, entries, bytes written.

A layer of some kilobytes can unpack to anything: long names and link targets compress to nothing,
and the holes of a sparse file take no room in an archive at all. So what a layer asks for is
counted while it streams by, and over a limit the import ends with an error that names the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfsrepo.errors import LimitError
from cfsrepo.formats.tar.reader import Member


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one image, over all of its layers together."""

    size: int = 256 << 30
    """Bytes of the unpacked layers, the holes of sparse files included (fs-verity hashes holes,
    and keeps their hashes)."""
    metadata: int = 64 << 20
    """Bytes of names, link targets and extended attributes: they are held in memory."""
    entries: int = 1 << 22
    """Entries, deleted and replaced ones included; each takes some 500 bytes of memory."""


DEFAULT_LIMITS = Limits()


class Budget:
    """Counts what was used of `limits`. A method raises LimitError when that is too much."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.size = 0
        """Bytes of archives and holes so far."""
        self.metadata = 0
        """Bytes of names, link targets and extended attributes so far."""
        self.entries = 0
        """Entries so far."""

    def add_bytes(self, count: int, name: str) -> None:
        """Count `count` bytes of the archive `name`."""
        self.size += count
        if self.size > self.limits.size:
            raise _over(name, "bytes when unpacked", self.limits.size, "--max-size")

    def add_entries(self, count: int, name: str) -> None:
        """Count `count` entries of the layer `name`."""
        self.entries += count
        if self.entries > self.limits.entries:
            raise _over(name, "entries", self.limits.entries, "--max-entries")

    def add_member(self, member: Member, name: str) -> None:
        """Count an entry of the layer `name`, and what it holds beside its content."""
        self.entries += 1
        self.metadata += len(member.path) + len(member.link)
        if member.xattrs:
            self.metadata += sum(map(len, member.xattrs)) + sum(map(len, member.xattrs.values()))
        if self.metadata > self.limits.metadata:
            raise _over(
                name,
                "bytes of names, link targets and extended attributes",
                self.limits.metadata,
                "--max-metadata",
            )
        if self.entries > self.limits.entries:
            self.add_entries(0, name)


def _over(name: str, what: str, limit: int, option: str) -> LimitError:
    return LimitError(
        f"{name}: more than {limit} {what} in an image",
        hint=f"an image that is to be trusted with more: {option}",
    )
