"""Checkout: an image as a bare-user tree, an ordinary directory of an ordinary user.

    with Repository.open(path) as repo:
        checkout(repo, "debian:12", "/home/me/tree")                      # image -> directory
        ...                                                               # edit it with any tool
        image = commit(repo, "/home/me/tree", "mine", base="debian:12")   # directory -> image

What each file becomes on disk says `cfsrepo.formats.metarecord`; `cfsrepo.worktree.treewriter`
writes. A tree that was checked out and not touched gives the same image again.

Data comes by reflink where the file system can, else as a copy; never as a hard link to an object,
which an edit in place would change for every image. It is checked against its digest on the way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from cfsrepo.errors import NotFoundError, RepositoryError, printable
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.tree import Inode
from cfsrepo.images import names
from cfsrepo.images.imagetree import load_image
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import ObjectStore, digest_from_path
from cfsrepo.store.repository import Repository
from cfsrepo.store.temporary import write_all
from cfsrepo.system import linux
from cfsrepo.worktree.checkoutmark import CheckoutMark
from cfsrepo.worktree.treewriter import TreeWriter

_READ_SIZE: Final = 1 << 20
# Why the kernel does not copy between two files: other file systems, or something else about them.
_NO_COPY: Final = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ETXTBSY}
)
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def checkout(
    repo: Repository,
    image: str,
    path: str,
    only: Sequence[bytes] = (),
    *,
    progress: Progress | None = None,
    verify: bool = True,
    force: bool = False,
    workers: int | None = None,
) -> None:
    """Write the image `image` (any of its names) to `path`, which must be empty or missing.

    `only`: these paths of the image, with what is below them and the directories above. `force`: a
    bare-user tree at `path` is replaced, finished or not, with all that was edited in it. With
    `verify` content is checked against its digest, unless the kernel does it anyway. Raises
    NotFoundError (image or path), InputError (the image, `path` is not empty), LimitError (a
    record does not fit), RepositoryError (content is damaged), OSError.
    """
    image_id = names.resolve(repo, image).image_id
    root = load_image(repo, image, progress)
    if only and (selected := select(root, only)) is not root:
        root = selected
    else:
        only = ()
    contents = ObjectContents(repo.objects, verify=verify)
    mark = CheckoutMark(image_id, tuple(only))
    with TreeWriter(path, contents, mark, replace=force) as writer:
        writer.write(root, progress or NoProgress(), workers=workers)


def select(root: Inode, paths: Sequence[bytes]) -> Inode:
    """A tree with nothing but `paths` of `root`: what is below them, and directories above."""
    result = _without_entries(root)
    for path in paths:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if not parts:
            return root
        source, target = root, result
        for position, part in enumerate(parts):
            below = None if source.entries is None else source.entries.get(part)
            if below is None:
                raise NotFoundError(f"{printable(path)}: no such path in the image")
            assert target.entries is not None
            there = target.entries.get(part)
            if there is below:  # selected with all that is below it
                break
            if position == len(parts) - 1:
                target.entries[part] = below
            else:
                if there is None:
                    if below.entries is None:
                        raise NotFoundError(f"{printable(path)}: no such path in the image")
                    there = target.entries[part] = _without_entries(below)
                source, target = below, there
    return result


def _without_entries(inode: Inode) -> Inode:
    return Inode(
        inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        mtime_sec=inode.mtime_sec,
        mtime_nsec=inode.mtime_nsec,
        xattrs=inode.xattrs,
        entries={},
        nlink=2,
    )


class ObjectContents:
    """Contents of files from an object store."""

    def __init__(self, objects: ObjectStore, *, verify: bool = True) -> None:
        self._objects = objects
        self._verify = verify
        self._reflink = True

    def create(self, inode: Inode, dir_fd: int, name: bytes, mode: int) -> int:
        """See `treewriter.Contents`."""
        fd = os.open(name, _NEW_FILE, mode, dir_fd=dir_fd)
        try:
            if inode.content is not None:
                write_all(fd, inode.content)
            elif inode.payload is not None:
                self._copy(inode, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _copy(self, inode: Inode, fd: int) -> None:
        objects = self._objects
        digest = inode.digest
        if digest is None:
            digest = digest_from_path(os.fsdecode(inode.payload or b""), objects.algorithm)
        if digest is None:
            raise RepositoryError(f"{printable(inode.payload or b'')}: no name of an object")
        source = objects.open(digest)
        try:
            if os.fstat(source).st_size != inode.size:
                raise objects.damaged(digest)
            if self._reflink:
                self._reflink = linux.clone_file(source, fd)
            if self._reflink:
                # Blocks are shared unread: even the kernel's fs-verity has not seen them yet.
                if self._verify and fsverity.digest_fd(fd, objects.algorithm) != digest:
                    raise objects.damaged(digest)
                return
            measured = kernelverity.measure(source, objects.algorithm) == digest
            if measured or not self._verify:
                if _copy_data(source, fd, inode.size) != inode.size:
                    raise objects.damaged(digest)
            elif _copy_and_digest(source, fd, inode.size, objects.algorithm) != digest:
                raise objects.damaged(digest)
        finally:
            os.close(source)


def _copy_data(source: int, target: int, size: int) -> int:
    """Copy up to `size` bytes; returns how many there were.

    Inside the kernel as far as it can: not across most file systems, nor from a file with
    fs-verity on all of them. It says so by an error, or by copying nothing.
    """
    left = size
    try:
        while left and (count := os.copy_file_range(source, target, left)):
            left -= count
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
    while left and (data := os.read(source, min(left, _READ_SIZE))):
        write_all(target, data)
        left -= len(data)
    return size - left


def _copy_and_digest(source: int, target: int, size: int, algorithm: Algorithm) -> bytes:
    """Copy all of a file that should have `size` bytes; returns the digest of what was copied."""
    data = os.read(source, min(size, _READ_SIZE) + 1)
    if len(data) == size:
        write_all(target, data)
        return fsverity.digest(data, algorithm)
    hasher = fsverity.Hasher(algorithm)
    while data:
        hasher.update(data)
        write_all(target, data)
        data = os.read(source, _READ_SIZE)
    return hasher.digest()
