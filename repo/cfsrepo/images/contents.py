"""The content of regular files: inside the image, all zeros, or an object of the repository."""

from __future__ import annotations

from typing import Protocol

from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo

Buffer = bytes | bytearray | memoryview


class Content(Protocol):
    """The bytes of one open file. Methods may be called from several threads at once."""

    def read(self, offset: int, size: int) -> Buffer:
        """At most `size` bytes from `offset`; empty at the end. May wait for the disk. OSError."""

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        """As `read()`, but None instead of waiting for the disk."""

    def close(self) -> None:
        """Release what the content holds. It must not be read afterwards."""

    @property
    def held(self) -> int:
        """Bytes of memory that it holds."""


class InlineContent:
    """Content that stands in the image."""

    __slots__ = ("_image", "_inode")

    def __init__(self, image: ErofsImage, inode: InodeInfo) -> None:
        self._image = image
        self._inode = inode

    def read(self, offset: int, size: int) -> Buffer:
        return self._image.read_inline(self._inode, offset, size)

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return self._image.read_inline(self._inode, offset, size)

    def close(self) -> None:
        """Nothing is held."""

    @property
    def held(self) -> int:
        return 0


class ZeroContent:
    """A file of zeros only."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        self._size = size

    def read(self, offset: int, size: int) -> Buffer:
        return bytes(max(0, min(size, self._size - offset)))

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return self.read(offset, size)

    def close(self) -> None:
        """Nothing is held."""

    @property
    def held(self) -> int:
        return 0
