"""Copying an object from another repository: by shared blocks, by a hard link, or byte for byte.

Another repository is not trusted. Whatever comes from it is hashed before it gets an object's name
here, shared or copied: of a shared file, the file that becomes the object. Only where the kernel
protects that file by fs-verity is it asked instead, since it checks every read. An object that is
here and verifies is never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import Final

from cfsrepo.errors import NotFoundError, RepositoryError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.store.temporary import make_directory, temporary_name
from cfsrepo.system import linux

_READ_SIZE: Final = 1 << 20
# Why a file cannot be linked, though it can be copied.
_LINK_REFUSED: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})


@dataclass(slots=True)
class Ways:
    """How objects may get from one store to another: `reflink`, `hardlink`, else `copy`.

    What a file system refuses is switched off, so that it is not tried for each object.
    """

    reflink: bool = True
    """Share the blocks, as separate files (btrfs, XFS)."""
    hardlink: bool = True
    """Be the same file."""


def copy_object(source: ObjectStore, target: ObjectStore, digest: bytes, ways: Ways) -> str:
    """Have the object `digest` of `source` in `target` too.

    Returns how: `present`, `reflink`, `hardlink` or `copy`. `RepositoryError` where the object of
    the source does not have this digest, `NotFoundError` where there is none.
    """
    target.check_writable()
    path = object_path(digest)
    with contextlib.closing(_Source(source, digest)) as found:
        if target.has_good(path, digest, found.size) or _verifies(target, digest):
            return "present"
        try:
            if ways.reflink and _reflink(found, target, path):
                return "reflink"
            ways.reflink = False
            if ways.hardlink and _hardlink(found, target, path):
                return "hardlink"
            ways.hardlink = False
            _copy(found, target)
        except OSError as error:
            raise target.failed(error) from error
    return "copy"


class _Source:
    """The object of the other store, open."""

    def __init__(self, store: ObjectStore, digest: bytes) -> None:
        self.store = store
        self.digest = digest
        self.fd = store.open(digest)
        self.size = os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)

    def damaged(self) -> RepositoryError:
        return self.store.damaged(self.digest)

    def check(self, fd: int) -> None:
        """Raise where the content of the file behind `fd`, open for reading, is another."""
        if _measured(fd, self.store) != self.digest:
            raise self.damaged()


def _measured(fd: int, store: ObjectStore) -> bytes:
    return kernelverity.measure(fd, store.algorithm) or fsverity.digest_fd(fd, store.algorithm)


def _verifies(store: ObjectStore, digest: bytes) -> bool:
    """Whether the store has the object with the right content and the protection it requires."""
    try:
        fd = store.open(digest)
    except NotFoundError:
        return False
    try:
        if store.policy is VerityPolicy.REQUIRE:
            return kernelverity.measure(fd, store.algorithm) == digest
        return _measured(fd, store) == digest
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False
    finally:
        os.close(fd)


def _reflink(source: _Source, target: ObjectStore, path: str) -> bool:
    """Make the object share the blocks of the source; False where the file system cannot."""
    draft = target.draft(".")
    try:
        if not linux.clone_file(source.fd, draft.fd):
            return False
        reader = linux.reopen(draft.fd, os.O_RDONLY)
        try:
            source.check(reader)
        finally:
            os.close(reader)
        make_directory(path[:2], target.dir_fd)
        target.install(draft, path, source.digest)
        return True
    finally:
        draft.discard()


def _hardlink(source: _Source, target: ObjectStore, path: str) -> bool:
    """Make the object the same file as in the source; False where that is not possible."""
    make_directory(path[:2], target.dir_fd)
    name = temporary_name()
    try:
        os.link(path, name, src_dir_fd=source.store.dir_fd, dst_dir_fd=target.dir_fd)
    except OSError as error:
        if error.errno in _LINK_REFUSED:
            return False
        raise
    try:
        with linux.opened(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=target.dir_fd) as fd:
            source.check(fd)
            if target.verity is not False:
                target.enable(fd, source.digest)
        os.rename(name, path, src_dir_fd=target.dir_fd, dst_dir_fd=target.dir_fd)
    finally:
        # Renaming one name of a file over another name of it does nothing, and leaves both.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=target.dir_fd)
    return True


def _copy(source: _Source, target: ObjectStore) -> None:
    with target.writer() as writer:
        while chunk := os.read(source.fd, _READ_SIZE):
            writer.write(chunk)
        if writer.digest() != source.digest:
            raise source.damaged()
        writer.commit()
