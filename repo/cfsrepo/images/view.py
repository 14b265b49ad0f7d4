"""An image as a file system, on plain data: names, attributes, links, xattrs, content.

`ImageView` answers what a server of any protocol asks, straight from the mapped image. It knows
nothing of FUSE and keeps no state for a file, so it needs no mount to be tested, and an image of a
million files costs nothing to open. Inodes are named by their nid. What it shows is what the kernel
shows for the same image (EROFS below overlayfs with the objects as data-only layer):

- whiteouts (character devices 0:0) are not there; so the 256 stubs in the root are hidden and an
  image's own `00` is shown. A whiteout that belongs to the image is an empty file with xattrs;
- xattrs of overlayfs are hidden, escaped ones are shown without their escape;
- access, change and modification time are the one time that the image has.

Expected failures are `OSError` with the errno that a system call gives. Damage of the image is
`InputError`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cfsrepo.errors import InputError, NotFoundError, printable
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import Backing, ErofsImage, InodeInfo
from cfsrepo.images.contents import Content, InlineContent, ZeroContent
from cfsrepo.images.owners import Owners

BLOCK_SIZE = 4096  # unit of I/O, and of `Usage`
_STAT_BLOCK = 512
_WHITEOUT_MODE = stat.S_IFCHR
_LINKS_MAX = 40  # as the kernel


class Objects(Protocol):
    """Where the content of files is that is not inside the image."""

    def open(self, backing: Backing, size: int) -> Content:
        """The content of an object that a file of `size` bytes has; OSError (EIO) without it."""

    def open_ready(self, backing: Backing, size: int) -> Content | None:
        """As `open`, but None where the disk would have to be waited for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What statfs(2) says: an image is full."""

    blocks: int  # of BLOCK_SIZE
    files: int
    name_max: int = layout.NAME_MAX


class ImageView:
    """The file system in `image`, with the content of its files from `objects`.

    `subdir`: this directory of the image is the root. `owners`: which owners to show.
    """

    def __init__(
        self,
        image: ErofsImage,
        objects: Objects,
        *,
        subdir: bytes = b"",
        owners: Owners | None = None,
    ) -> None:
        self.image = image
        self.root: int = image.root_nid
        self._objects = objects
        self._owners = None if owners is None or owners.unchanged else owners
        if subdir.strip(b"/"):
            self.root = self.resolve(subdir)
            if not stat.S_ISDIR(self.attributes(self.root).mode):
                raise NotFoundError(f"{image.name}: {printable(subdir)}: not a directory")

    def resolve(self, path: bytes) -> int:
        """The nid at `path`, from the root of the view, symlinks not followed; `NotFoundError`."""
        nid: int | None = self.root
        for name in path.split(b"/"):
            if name and nid is not None:
                is_dir = stat.S_ISDIR(self.image.inode(nid).mode)
                nid = self.lookup(nid, name) if is_dir else None
        if nid is None:
            raise self._no_such(path)
        return nid

    def follow(self, path: bytes) -> int:
        """The nid at `path` with symlinks followed inside the view, as after a chroot into it.

        Raises `NotFoundError`, also for a chain of more than 40 symlinks.
        """
        links = 0
        above = [self.root]  # the directories from the root to where we are
        nid = self.root
        pending = path.split(b"/")[::-1]
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(above) > 1:
                    above.pop()
                nid = above[-1]
                continue
            found = self.lookup(nid, name) if nid == above[-1] else None
            if found is None:
                raise self._no_such(path)
            mode = self.image.inode(found).mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > _LINKS_MAX:
                    raise NotFoundError(f"{self.image.name}: {printable(path)}: too many symlinks")
                target = self.readlink(found)
                if target.startswith(b"/"):
                    above = [self.root]
                    nid = self.root
                pending.extend(target.split(b"/")[::-1])
                continue
            nid = found
            if stat.S_ISDIR(mode):
                above.append(nid)
        return nid

    def _no_such(self, path: bytes) -> NotFoundError:
        return NotFoundError(f"{self.image.name}: {printable(path)}: no such file in the image")

    def attributes(self, nid: int) -> InodeInfo:
        """What stat(2) says, with the owner to be shown."""
        inode = self.image.inode(nid)
        if self._owners is not None:
            uid, gid = self._owners.shown(inode.uid, inode.gid)
            return inode._replace(uid=uid, gid=gid)
        return inode

    def lookup(self, directory: int, name: bytes) -> int | None:
        """The nid of `name` in a directory; None where it is not there, or is a whiteout."""
        if directory == self.root and name == b"..":
            return self.root
        if len(name) > layout.NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        nid = self.image.lookup(directory, name)
        if nid is None or self._is_whiteout(nid):
            return None
        return nid

    def readdir(self, directory: int, start: int = 0) -> Iterator[tuple[int, bytes, int]]:
        """(next position, name, nid) of a directory's entries from position `start` on."""
        root = directory == self.root
        for position, name, nid, kind in self.image.readdir(directory, start):
            if kind == layout.FT_CHR and self._is_whiteout(nid):
                continue
            if root and name == b"..":
                nid = self.root
            yield position, name, nid

    def _is_whiteout(self, nid: int) -> bool:
        try:
            inode = self.image.inode(nid)
        except InputError:
            return False  # listed; reading it is an error
        return inode.rdev == 0 and inode.mode & 0o170000 == _WHITEOUT_MODE

    def readlink(self, nid: int) -> bytes:
        """The target of a symlink; OSError (EINVAL) for anything else."""
        return self.image.readlink(nid)

    def xattrs(self, nid: int, *, trusted: bool) -> dict[bytes, bytes]:
        """The extended attributes; those of the class `trusted` for the privileged only."""
        return self.image.xattrs(nid, trusted=trusted)

    def has_xattrs(self, nid: int, *, trusted: bool) -> bool:
        """Whether `xattrs()` has any."""
        return self.image.has_visible_xattrs(nid, trusted=trusted)

    def usage(self) -> Usage:
        """Size of the image's metadata and number of its files, as the kernel's statfs(2)."""
        return Usage(self.image.block_count, self.image.inode_count)

    def open(self, nid: int) -> Content:
        """The content of a regular file. May read from disk. OSError: EISDIR, EINVAL, EIO."""
        content = self._content(nid, self._objects.open)
        assert content is not None
        return content

    def open_ready(self, nid: int) -> Content | None:
        """As `open`, but None where the disk would have to be waited for."""
        return self._content(nid, self._objects.open_ready)

    def _content(
        self, nid: int, opener: Callable[[Backing, int], Content | None]
    ) -> Content | None:
        inode = self.image.inode(nid)
        if stat.S_ISDIR(inode.mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(inode.mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if inode.layout != layout.LAYOUT_CHUNK_BASED:
            return InlineContent(self.image, inode)
        backing = self.image.backing(nid)
        if backing is not None:
            return opener(backing, inode.size)
        if layout.OVERLAY_METACOPY not in self.image.raw_xattrs(nid) and self.image.is_sparse(nid):
            return ZeroContent(inode.size)
        raise OSError(errno.EIO, "the image says neither content nor object of the file")

    def path_of(self, nid: int) -> bytes | None:
        """A path that leads to `nid`, found by walking the image; None where none does.

        For messages only: it reads every directory in the worst case. Raises InputError where the
        image is damaged.
        """
        for entry in ImageWalk(self.image).entries(self.root):
            if entry.info.nid == nid:
                return entry.path or b"/"
        return None


def stat_blocks(size: int) -> int:
    """st_blocks of a file of `size` bytes: its data in whole blocks, as the kernel counts."""
    return -(-size // BLOCK_SIZE) * (BLOCK_SIZE // _STAT_BLOCK)


def refused_access(mode: int, mask: int) -> int:
    """The errno that access(2) gives for a file of this mode; 0 where `mask` (R_OK...) is granted.

    The one who mounted may read everything, whatever the mode says; to execute a file somebody must
    be allowed to. Devices, FIFOs and sockets are written to without writing to the file system.
    """
    kind = stat.S_IFMT(mode)
    if mask & os.W_OK and kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return errno.EROFS
    if mask & os.X_OK and kind != stat.S_IFDIR and not mode & 0o111:
        return errno.EACCES
    return 0
