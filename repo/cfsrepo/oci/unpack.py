"""Layers unpacked into a bare-user tree, without a repository and without rights.

The archive is never allowed to name a file on disk. While it streams by, contents go into files
that are called by number, in a directory of our own inside the (empty) target; what the members say
goes into a tree in memory, by the rules that pulling follows (`cfsrepo.oci.merge`: whiteouts, hard
links, `/` and `/run`), which refuse `..` and whatever leads through something that is no directory.
Only the finished, checked tree is then written, by `cfsrepo.worktree.treewriter`, with the files
moved to their places. So committing what was unpacked gives the image that pulling the layers
gives.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from cfsrepo.errors import InputError
from cfsrepo.formats.splitstream import Digest
from cfsrepo.formats.tar.reader import Member
from cfsrepo.formats.tar.stream import TarStream
from cfsrepo.formats.tree import Inode, paused_gc
from cfsrepo.oci.decompress import decompress
from cfsrepo.oci.documents import Compression
from cfsrepo.oci.feed import Feed
from cfsrepo.oci.layers import spread
from cfsrepo.oci.limits import DEFAULT_LIMITS, Budget, Limits
from cfsrepo.oci.merge import INLINE_MAX, Content, Merger, XattrMode
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.system import linux
from cfsrepo.worktree.treewriter import TreeWriter

_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MAGIC_SIZE: Final = 4


def unpack(
    layers: Sequence[str],
    path: str,
    *,
    xattrs: XattrMode = XattrMode.OCI,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
    workers: int | None = None,
) -> None:
    """Unpack the archives `layers` (files; gzip, zstd or plain; lowest first) into `path`, which
    must be an empty directory or missing.

    Raises InputError for an archive that is damaged or hostile, LimitError for one that asks for
    more than `limits` or a record that does not fit, OSError. What was unpacked so far is removed
    then, unless the tree was being written.
    """
    progress = progress or NoProgress()
    contents = _Staged(limits)
    with TreeWriter(path, contents) as writer:
        contents.open(writer.fd)
        try:
            merger = Merger(xattrs, limits=limits, warn=progress.message)
            with paused_gc():
                for layer in layers:
                    _read_layer(layer, merger, contents, progress)
                root = merger.finish()
            if merger.dropped_xattrs:
                progress.message(
                    f"{merger.dropped_xattrs} extended attributes user.cfs.* were left out"
                )
            writer.write(root, progress, workers=workers, before_directories=contents.remove)
        finally:
            contents.remove()


class _File:
    """The file of a layer as a source for `decompress`."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.position = 0
        self.start = os.pread(fd, _MAGIC_SIZE, 0)
        self._fd = fd

    def read(self, count: int, /) -> bytes:
        data = os.read(self._fd, count)
        self.position += len(data)
        return data

    def chunks(self) -> Iterator[tuple[bytes, int]]:
        """The archive, unpacked by what its first bytes say."""
        for chunk in decompress(self, _compression(self.start)):
            yield chunk, self.position
        yield b"", self.position


def _compression(start: bytes) -> Compression:
    if start[:2] == b"\x1f\x8b":
        return Compression.GZIP
    # A frame, or one that is to be skipped.
    if start == b"\x28\xb5\x2f\xfd" or (start[1:] == b"\x2a\x4d\x18" and start[0] >> 4 == 5):
        return Compression.ZSTD
    return Compression.NONE


def _read_layer(layer: str, merger: Merger, contents: _Staged, progress: Progress) -> None:
    with linux.opened(layer, os.O_RDONLY | os.O_NONBLOCK) as fd:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise InputError(f"{layer}: no regular file")
        task = os.path.basename(layer)
        progress.start(task, info.st_size)
        with Feed(_File(fd, layer).chunks()) as feed:

            def count(read: int, unpacked: int) -> None:
                contents.budget.add_bytes(unpacked, layer)
                progress.advance(task, read)

            stream = TarStream(feed.chunks(count), layer)
            merger.add_layer(contents.members(stream, layer), layer)
        progress.finish(task)


class _Staged:
    """Contents of files, kept in numbered files until the tree is known.

    A number stands where a digest stands in other trees, and is as wide.
    """

    def __init__(self, limits: Limits) -> None:
        self.budget = Budget(limits)
        """What the archives unpack to."""
        self._root_fd = -1
        self._fd = -1
        self._name = ""
        self._count = 0

    def open(self, root_fd: int) -> None:
        """Make the directory for the files, in the directory `root_fd`."""
        self._root_fd = root_fd
        self._name = f".cfs-unpack-{secrets.token_hex(8)}"
        os.mkdir(self._name, 0o700, dir_fd=root_fd)
        self._fd = os.open(
            self._name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd
        )

    def remove(self) -> None:
        """Remove what is left there. May be called twice."""
        if self._fd < 0:
            return
        for name in os.listdir(self._fd):
            os.unlink(name, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = -1
        os.rmdir(self._name, dir_fd=self._root_fd)

    def members(self, stream: TarStream, name: str) -> Iterator[tuple[Member, Content]]:
        """The members of the archive `name`, with what stands for their contents."""
        for member in stream:
            if member.sparse is not None:
                self.budget.add_bytes(member.size - member.stored, name)
            if member.kind == stat.S_IFREG and member.size > INLINE_MAX:
                yield member, self._store(member, stream)
                continue
            data = b"".join(stream.read_data())
            if member.sparse is not None:
                data = spread(data, member.sparse, member.size)
            yield member, data or None

    def _store(self, member: Member, stream: TarStream) -> Digest:
        self._count += 1
        number = Digest(self._count.to_bytes(32, "big"))
        fd = os.open(_name(number), _NEW_FILE, 0o600, dir_fd=self._fd)
        try:
            if member.sparse is None:
                for piece in stream.read_data():
                    _write(fd, piece)
            else:
                os.truncate(fd, member.size)
                parts = iter([*member.sparse, (member.size, 0)])
                at, left = next(parts)
                for piece in stream.read_data():
                    while piece:
                        while not left:
                            at, left = next(parts)
                        written = os.pwrite(fd, piece[:left], at)
                        at, left, piece = at + written, left - written, piece[written:]
        finally:
            os.close(fd)
        return number

    def create(self, inode: Inode, dir_fd: int, name: bytes, mode: int) -> int:
        """See `treewriter.Contents`."""
        if inode.digest is None:
            fd = os.open(name, _NEW_FILE, mode, dir_fd=dir_fd)
            if inode.content:
                os.write(fd, inode.content)
            return fd
        staged = _name(inode.digest)
        linux.renameat2(self._fd, staged, dir_fd, name, linux.RENAME_NOREPLACE)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def _name(number: bytes) -> str:
    return str(int.from_bytes(number, "big"))


def _write(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]
