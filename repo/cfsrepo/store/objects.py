"""The object store: files named by the fs-verity digest of their content.

    objects/XX/REST    XX: first byte of the digest in hex, REST: the others; mode 0644
    objects/.tmp-*     a file being written, where the file system has no O_TMPFILE

An object is written under no name and linked when it is complete, so it is there whole or not at
all, and it is never modified afterwards. Storing does not wait for the disk: whoever makes
something visible that needs the objects calls syncfs first (`cfsrepo.store.repository`). After a
power failure an object can therefore exist with a wrong size; storing the same content again
replaces it.

Content that goes through here is hashed once, while it is in memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Collection
from typing import Final

from cfsrepo.errors import NotFoundError, RepositoryError, VerityError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, Buffer, VerityPolicy
from cfsrepo.store import hardlink, kernelverity
from cfsrepo.store.kernelverity import enable_when_idle, unsupported
from cfsrepo.store.objectwriter import ObjectWriter
from cfsrepo.store.temporary import Draft, make_directory, temporary_name, umask, write_all
from cfsrepo.system import linux
from cfsrepo.system.closing import Closing

_FILE_MODE: Final = 0o644
_READ_SIZE: Final = 1 << 20
_LISTED_MAX: Final = 8  # names read for an object that is looked for, before stat is quicker
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CLOEXEC
# How file systems without O_TMPFILE answer it (EISDIR: kernels that do not know the flag).
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS})
_PREFIX_NAME = re.compile(r"[0-9a-f]{2}\Z")


def object_path(digest: bytes) -> str:
    """Path of an object below the object directory: `xx/rest`."""
    name = digest.hex()
    return f"{name[:2]}/{name[2:]}"


def digest_from_path(path: str, algorithm: Algorithm) -> bytes | None:
    """The digest that `xx/rest` names; None where it names none of this algorithm."""
    prefix, slash, rest = path.partition("/")
    name = prefix + rest
    if not slash or len(prefix) != 2 or len(name) != 2 * algorithm.digest_size:
        return None
    if not all(char in "0123456789abcdef" for char in name):
        return None
    return bytes.fromhex(name)


class ObjectStore(Closing):
    """The directory `path` of objects. Several may be open on one directory, in any process."""

    def __init__(
        self,
        path: str,
        algorithm: Algorithm,
        policy: VerityPolicy = VerityPolicy.TRY,
        *,
        writable: bool = True,
    ) -> None:
        self.path = path
        self.algorithm = algorithm
        self.policy = policy
        self.writable = writable
        self.keep_tree: Callable[[int, bytes, bytes], None] | None = None
        """Called with size, digest and hashes of the blocks of a new large object."""
        self.doubted: Callable[[bytes], bool] | None = None
        """Whether an object is to count as absent: `cfsrepo.upkeep.repair` sets it."""
        self._fd = -1
        self._tmpfile = True
        self._adopting = True  # until it turns out that what is adopted is on another file system
        self.verity: bool | None = {VerityPolicy.OFF: False, VerityPolicy.REQUIRE: True}.get(policy)
        """Whether to enable fs-verity on new objects. None: `try`, until the first one tells."""
        self._fix_mode = bool(umask() & _FILE_MODE)

    def close(self) -> None:
        """Release the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def dir_fd(self) -> int:
        """The open object directory; made where it is missing and the store is writable."""
        if self._fd < 0:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            try:
                self._fd = os.open(self.path, flags)
            except FileNotFoundError:
                if not self.writable:
                    raise NotFoundError(f"{self.path}: no objects") from None
                make_directory(self.path)
                self._fd = os.open(self.path, flags)
        return self._fd

    # --- reading ---------------------------------------------------------------------------------

    def open(self, digest: bytes) -> int:
        """A read-only descriptor of an object, which the caller closes; `NotFoundError`."""
        if self.doubted is not None and self.doubted(digest):
            raise self._missing(digest)
        try:
            return os.open(
                object_path(digest),
                os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW,
                dir_fd=self.dir_fd,
            )
        except FileNotFoundError:
            raise self._missing(digest) from None

    def has(self, digest: bytes) -> bool:
        """Whether the object exists. Says nothing of its content."""
        return self.size(digest) is not None

    def size(self, digest: bytes) -> int | None:
        """Size of the object's file in bytes; None where there is none."""
        if self.doubted is not None and self.doubted(digest):
            return None
        try:
            return os.stat(object_path(digest), dir_fd=self.dir_fd, follow_symlinks=False).st_size
        except (FileNotFoundError, NotFoundError):
            return None

    def has_all(self, digests: Collection[bytes]) -> bool:
        """Whether all of these objects exist; for many it is quicker than `has` for each."""
        if self.doubted is not None:
            return all(map(self.has, digests))
        wanted = {digest.hex() for digest in digests}
        prefixes = sorted({name[:2] for name in wanted})
        for number, prefix in enumerate(prefixes):
            with contextlib.suppress(FileNotFoundError):
                with linux.opened(prefix, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.dir_fd) as fd:
                    names = os.listdir(fd)
                wanted.difference_update([prefix + name for name in names])
                # Few of many are not worth reading all names.
                if number == 0 and len(names) * len(prefixes) > _LISTED_MAX * len(digests):
                    break
        return all(self.has(bytes.fromhex(name)) for name in wanted)

    def read(self, digest: bytes, *, verify: bool = True) -> bytes:
        """The whole content; with `verify` checked, so that damage is a `RepositoryError`."""
        fd = self.open(digest)
        try:
            data = _read_all(fd)
        finally:
            os.close(fd)
        if verify and fsverity.digest(data, self.algorithm) != digest:
            raise self.damaged(digest)
        return data

    def damaged(self, digest: bytes) -> RepositoryError:
        """The error for an object whose content is not what its name says."""
        return RepositoryError(
            f"{self.path}/{object_path(digest)}: content does not have this digest",
            hint="'cfs fsck --repair --from SOURCE' fetches it again",
        )

    def _missing(self, digest: bytes) -> NotFoundError:
        return NotFoundError(
            f"{self.path}/{object_path(digest)}: object is missing",
            hint="'cfs fsck --repair --from SOURCE' fetches it again",
        )

    def prefixes(self) -> list[str]:
        """The subdirectories `xx` that exist, sorted."""
        try:
            names = os.listdir(self.dir_fd)
        except NotFoundError:
            return []
        return sorted(name for name in names if _PREFIX_NAME.match(name))

    # --- writing ---------------------------------------------------------------------------------

    def put(self, data: Buffer) -> bytes:
        """Store `data`; returns its digest. Content that is there already is not written again."""
        self.check_writable()
        digest = fsverity.digest(data, self.algorithm)
        path = object_path(digest)
        if not self.has_good(path, digest, len(data)):
            draft = self.draft(path[:2])
            try:
                write_all(draft.fd, data)
                self.install(draft, path, digest)
            except OSError as error:
                raise self.failed(error) from error
            finally:
                draft.discard()
        return digest

    def writer(self) -> ObjectWriter:
        """For content that comes in pieces: `with store.writer() as writer: ... commit()`."""
        self.check_writable()
        return ObjectWriter(self)

    def put_shared(self, fd: int) -> bytes | None:
        """Store the content of the file behind `fd` by sharing its blocks; returns its digest.

        None where the file system cannot (reflink). The file may change meanwhile: what is hashed
        is the object, not the file.
        """
        self.check_writable()
        draft = self.draft(".")
        try:
            if not linux.clone_file(fd, draft.fd):
                return None
            reader = linux.reopen(draft.fd, os.O_RDONLY)
            try:
                digest = fsverity.digest_fd(reader, self.algorithm)
                size = os.fstat(reader).st_size
            finally:
                os.close(reader)
            self.complete(draft, digest, size)
            return digest
        except OSError as error:
            raise self.failed(error) from error
        finally:
            draft.discard()

    def adopt(self, fd: int, names: int = 1) -> bytes | None:
        """Store the content of the file behind the read-only `fd` by making the file the object.

        Returns the digest. None for a file that must not be taken
        (`cfsrepo.store.hardlink`; `names`: how many it may have) or cannot be linked here:
        it is as it was, and a copy of it can be stored. Content that is there already is
        not replaced. A file that was taken must not be changed.
        """
        self.check_writable()
        if not self._adopting:
            return None
        held = hardlink.hold(fd)
        if held is None:
            return None
        with held:
            digest = held.digest(self.algorithm)
            path = object_path(digest)
            try:
                if self.has_good(path, digest, held.size):
                    return digest
                make_directory(path[:2], self.dir_fd)
                if held.names == names and held.install(self.dir_fd, path, self._enabler(digest)):
                    return digest
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise self.failed(error) from error
                self._adopting = False
        return None

    def _enabler(self, digest: bytes) -> Callable[[int], bool]:
        return lambda fd: self.verity is not False and self.enable(fd, digest)

    def check_writable(self) -> None:
        """`RepositoryError` where nothing may be written."""
        if not self.writable:
            raise RepositoryError(f"{self.path}: the repository is open for reading only")

    # --- for the modules that bring content in ---------------------------------------------------

    def complete(self, draft: Draft, digest: bytes, size: int) -> bool:
        """Make the complete file `draft` the object `digest`; False where that is there already."""
        path = object_path(digest)
        if self.has_good(path, digest, size):
            return False
        make_directory(path[:2], self.dir_fd)
        self.install(draft, path, digest)
        return True

    def has_good(self, path: str, digest: bytes, size: int) -> bool:
        """Whether the object exists in the right size and, where it must be, protected."""
        if self.doubted is not None and self.doubted(digest):
            return False
        try:
            found = os.stat(path, dir_fd=self.dir_fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return False
        if found != size:
            return False
        if self.policy is not VerityPolicy.REQUIRE:
            return True
        with linux.opened(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.dir_fd) as fd:
            return kernelverity.measure(fd, self.algorithm) == digest

    def draft(self, prefix: str) -> Draft:
        """A new file, open for writing, in the directory `prefix`, which is made if missing."""
        if self._tmpfile:
            try:
                return Draft(self._open_tmpfile(prefix), self.dir_fd, None)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise self.failed(error) from error
                self._tmpfile = False
        name = temporary_name()
        flags = _WRITE_FLAGS | os.O_CREAT | os.O_EXCL
        fd = os.open(name, flags, _FILE_MODE, dir_fd=self.dir_fd)
        draft = Draft(fd, self.dir_fd, name)
        if self._fix_mode:
            os.fchmod(fd, _FILE_MODE)
        return draft

    def _open_tmpfile(self, prefix: str) -> int:
        flags = _WRITE_FLAGS | os.O_TMPFILE
        try:
            fd = os.open(prefix, flags, _FILE_MODE, dir_fd=self.dir_fd)
        except FileNotFoundError:
            make_directory(prefix, self.dir_fd)
            fd = os.open(prefix, flags, _FILE_MODE, dir_fd=self.dir_fd)
        if self._fix_mode:
            os.fchmod(fd, _FILE_MODE)
        return fd

    def install(self, draft: Draft, path: str, digest: bytes) -> None:
        """Protect the complete file and give it its name.

        A file that has the name already is kept if it is good (somebody was faster), else replaced
        (a crash or damage left it).
        """
        if self.verity is not False:
            self._protect(draft, digest)
        if draft.name is None:
            try:
                linux.link_fd(draft.fd, self.dir_fd, path)
                return
            except FileExistsError:
                if self.has_good(path, digest, os.fstat(draft.fd).st_size):
                    return
                name = temporary_name()
                linux.link_fd(draft.fd, self.dir_fd, name)
                draft.name = name
        make_directory(path[:2], self.dir_fd)
        os.rename(draft.name, path, src_dir_fd=self.dir_fd, dst_dir_fd=self.dir_fd)
        draft.name = None

    def _protect(self, draft: Draft, digest: bytes) -> None:
        """Enable fs-verity on the complete file; its descriptor becomes a read-only one.

        `VerityError` where the policy requires it and it is not to be had, or the kernel measures
        another digest than we computed.
        """
        reader = linux.reopen(draft.fd, os.O_RDONLY)
        os.close(draft.fd)
        draft.fd = reader
        self.enable(reader, digest)

    def enable(self, reader: int, digest: bytes) -> bool:
        """Enable fs-verity on the file as the policy says; whether it has it."""
        enabled = enable_when_idle(reader, self.algorithm)
        if not enabled and self.verity is True:
            raise unsupported(self.path)
        if self.verity is None:
            self.verity = enabled
        if enabled and kernelverity.measure(reader, self.algorithm) != digest:
            raise VerityError(f"{self.path}/{object_path(digest)}: the kernel measures otherwise")
        return enabled

    def failed(self, error: OSError) -> OSError:
        """`error` with the object directory's name where it has none that means something."""
        if error.filename is not None and str(error.filename).startswith(self.path):
            return error
        return OSError(error.errno, error.strerror, self.path)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    parts: list[bytes] = []
    while True:
        part = os.read(fd, max(size + 1, _READ_SIZE) if not parts else _READ_SIZE)
        if not part:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        parts.append(part)
