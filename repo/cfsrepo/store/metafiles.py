"""What makes a directory a repository: `meta.json` and the record of the policy, on disk.

Both appear whole. A directory in which the making of a repository was interrupted has no
`meta.json`, and is taken for an empty one when it is made again.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from cfsrepo.errors import NotFoundError, RepositoryError, UsageError
from cfsrepo.formats import metajson
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.formats.metajson import RepositoryMeta
from cfsrepo.store import kernelverity
from cfsrepo.store.kernelverity import enable_when_idle, unsupported
from cfsrepo.store.temporary import make_directory
from cfsrepo.system import linux

PRIVATE_DIRECTORY: Final = "cfsfuse"
"""What only this program knows, below the repository's directory."""
_POLICY_FILE: Final = f"{PRIVATE_DIRECTORY}/verity"
_META_SIZE_MAX: Final = 1 << 20
_LEFTOVERS: Final = frozenset({PRIVATE_DIRECTORY, f"{metajson.FILE_NAME}.new"})
"""What a making that was killed may leave in the directory."""


def make_repository(path: str, meta: RepositoryMeta, policy: VerityPolicy) -> None:
    """Make the directory `path` a repository, if it is none; makes it, with mode 0700, if missing.

    `UsageError` for a directory with other things in it, `VerityError` where `require` cannot be
    met; a directory that was made for it is then removed again, if it is still empty. Several may
    do this at once: the lock of the directory puts them in order, and the first one decides.
    """
    while True:
        made = _make_root(path)
        try:
            with linux.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                linux.lock_exclusive(fd)
                if not _is_at(path, fd):
                    continue  # whoever made it failed, and removed it
                if not exists(fd, metajson.FILE_NAME):
                    _fill_root(path, fd, meta, policy, made)
                return
        except FileNotFoundError:
            if _is_missing(path):
                continue  # the same, a moment earlier
            raise


def _make_root(path: str) -> bool:
    """Make the directory of a repository; False where it exists."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    return True


def _is_at(path: str, fd: int) -> bool:
    """Whether the directory behind `fd` is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _is_missing(path: str) -> bool:
    return os.path.isdir(os.path.dirname(path)) and not os.path.lexists(path)


def _fill_root(path: str, fd: int, meta: RepositoryMeta, policy: VerityPolicy, made: bool) -> None:
    """Write the policy and meta.json; the caller has the lock. On failure, as it was before."""
    if not made and set(os.listdir(fd)) - _LEFTOVERS:
        raise UsageError(f"{path}: exists and is neither empty nor a repository")
    try:
        write_policy(fd, policy)
        write_meta(path, fd, meta, policy)
    except BaseException:
        if made:
            for leftover in (_POLICY_FILE, f"{_POLICY_FILE}.new"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leftover, dir_fd=fd)
            with contextlib.suppress(OSError):  # not empty: somebody else uses it
                os.rmdir(PRIVATE_DIRECTORY, dir_fd=fd)
                os.rmdir(path)
        raise


def exists(fd: int, name: str) -> bool:
    """Whether there is anything called `name` in the directory; links are not followed."""
    try:
        os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


def write_policy(fd: int, policy: VerityPolicy) -> None:
    """Record the policy, atomically."""
    make_directory(PRIVATE_DIRECTORY, fd)
    temporary = f"{_POLICY_FILE}.new"
    with linux.opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=fd) as file:
        os.fchmod(file, 0o644)
        os.write(file, f"{policy}\n".encode())
        os.fsync(file)
    os.rename(temporary, _POLICY_FILE, src_dir_fd=fd, dst_dir_fd=fd)


def read_policy(path: str, fd: int) -> VerityPolicy | None:
    """The recorded policy; None where cfsctl made the repository."""
    try:
        with linux.opened(_POLICY_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd) as file:
            text = os.read(file, 64).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    try:
        return VerityPolicy(text)
    except ValueError:
        raise RepositoryError(f"{path}/{_POLICY_FILE}: unknown policy {text!r}") from None


def write_meta(path: str, fd: int, meta: RepositoryMeta, policy: VerityPolicy) -> None:
    """Put meta.json in place, whole and, for `require`, protected."""
    temporary = f"{metajson.FILE_NAME}.new"
    try:
        with linux.opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=fd) as file:
            os.fchmod(file, 0o644)
            os.write(file, meta.to_json())
            os.fsync(file)
        if policy is VerityPolicy.REQUIRE:
            with linux.opened(temporary, os.O_RDONLY, dir_fd=fd) as file:
                if not enable_when_idle(file, meta.algorithm):
                    raise unsupported(path)
        os.rename(temporary, metajson.FILE_NAME, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=fd)
        raise


def read_meta(path: str, fd: int) -> tuple[RepositoryMeta, bool]:
    """meta.json, and whether the kernel protects it."""
    name = os.path.join(path, metajson.FILE_NAME)
    try:
        with linux.opened(metajson.FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd) as file:
            data = os.read(file, _META_SIZE_MAX)
            meta = metajson.parse(data, name)
            return meta, kernelverity.measure(file, meta.algorithm) is not None
    except FileNotFoundError:
        if exists(fd, "objects"):
            raise RepositoryError(
                f"{path}: a repository without {metajson.FILE_NAME}, from before it existed",
                hint="any command of cfsctl that writes to it adds the file",
            ) from None
        raise NotFoundError(
            f"{path}: no repository", hint=f"make one: cfs --repo {path} init"
        ) from None
