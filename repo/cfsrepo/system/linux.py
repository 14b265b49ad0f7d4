"""Linux system calls that Python's standard library lacks, as thin functions.

A wrapper raises `OSError` as the `os` module does, adds no policy and knows nothing of
repositories. Constants are those of the uapi headers. Nothing else in the project calls libc.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_SYMLINK_NOFOLLOW: Final = 0x100

# openat2(2), linux/openat2.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_CACHED: Final = 0x20

# renameat2(2), linux/fs.h
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

# The new mount API, linux/mount.h
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_SET_FD: Final = 5
FSCONFIG_CMD_CREATE: Final = 6
FSMOUNT_CLOEXEC: Final = 1
FSOPEN_CLOEXEC: Final = 1
MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_IDMAP: Final = 0x100000
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC

# mount(2), umount2(2), unshare(2)
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000

# ioctl(2) requests, linux/fs.h and linux/fsverity.h
FICLONE: Final = 0x40049409
FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_ENABLE_VERITY: Final = 0x40806685
FS_IOC_MEASURE_VERITY: Final = 0xC0046686
FS_VERITY_FL: Final = 0x00100000

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

# System call numbers of calls that glibc of Debian 12 does not wrap. Calls added after Linux 5.0
# have the same number on every architecture but alpha.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

_VERITY_ENABLE = struct.Struct("=IIIIQIIQ88x")  # struct fsverity_enable_arg, 128 bytes
_VERITY_DIGEST = struct.Struct("=HH")  # struct fsverity_digest without its array
_VERITY_DIGEST_MAX = 64
# What a file system, or a kernel, without fs-verity answers to its ioctls.
VERITY_UNSUPPORTED: Final = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS})

# What a file system without flock(2) answers.
_NO_LOCKS: Final = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, path: str | bytes | None = None) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno()
    if path is None:
        raise OSError(code, os.strerror(code))
    raise OSError(code, os.strerror(code), path)


# --- files ---------------------------------------------------------------------------------------


def openat2(
    dirfd: int, path: str | bytes, flags: int, mode: int = 0, *, resolve: int = RESOLVE_BENEATH
) -> int:
    """openat2(2): open `path` below `dirfd` under the `resolve` rules; always close-on-exec.

    With `RESOLVE_CACHED`, `BlockingIOError` where the disk would have to be read.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    while True:
        result = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dirfd),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.c_char_p(how),
            ctypes.c_size_t(len(how)),
        )
        # EAGAIN: a rename raced with the walk of "..", and the kernel could not be sure.
        again = (errno.EINTR,) if resolve & RESOLVE_CACHED else (errno.EINTR, errno.EAGAIN)
        if result >= 0 or ctypes.get_errno() not in again:
            return _check(result, path)


def renameat2(src_dir: int, src: str | bytes, dst_dir: int, dst: str | bytes, flags: int) -> None:
    """renameat2(2): rename with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`."""
    _check(
        _libc.renameat2(
            ctypes.c_int(src_dir),
            ctypes.c_char_p(os.fsencode(src)),
            ctypes.c_int(dst_dir),
            ctypes.c_char_p(os.fsencode(dst)),
            ctypes.c_uint(flags),
        ),
        dst,
    )


def link_fd(fd: int, dirfd: int, path: str) -> None:
    """Give the file behind `fd` (often one opened with O_TMPFILE) the name `path` below `dirfd`."""
    os.link(f"/proc/self/fd/{fd}", path, dst_dir_fd=dirfd, follow_symlinks=True)


def reopen(fd: int, flags: int) -> int:
    """A new open file description of the file behind `fd`, which may have no name."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def clone_file(src_fd: int, dst_fd: int) -> bool:
    """Share `src_fd`'s blocks with the empty `dst_fd`; False where the file system cannot."""
    try:
        fcntl.ioctl(dst_fd, FICLONE, src_fd)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL):
            return False
        raise
    return True


def syncfs(fd: int) -> None:
    """Write out everything of the file system that holds `fd`; reports I/O errors."""
    _check(_libc.syncfs(ctypes.c_int(fd)))


@contextmanager
def opened(
    path: str | bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o777
) -> Iterator[int]:
    """A file descriptor for the length of a `with` block."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


# --- locks ---------------------------------------------------------------------------------------


def lock_shared(fd: int, *, wait: bool = True) -> bool:
    """flock(2) shared; False where `wait` is off and somebody else holds an exclusive lock.

    A lock already held on `fd` is converted, not atomically.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if wait else fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_exclusive(fd: int, *, wait: bool = True) -> bool:
    """flock(2) exclusive; False where `wait` is off and somebody else holds a lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def mark_in_use(fd: int) -> None:
    """Hold a shared flock(2) as long as the file behind `fd` is open, where there are such locks.

    It belongs to the open file description, so a mapping made through `fd` holds it too.
    """
    try:
        lock_shared(fd)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def is_in_use(fd: int) -> bool:
    """Whether somebody else holds a lock by `mark_in_use`; False also where there are no locks."""
    try:
        if not lock_exclusive(fd, wait=False):
            return True
        unlock(fd)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return False


def unlock(fd: int) -> None:
    """Release the flock(2) of `fd`."""
    fcntl.flock(fd, fcntl.LOCK_UN)


# --- processes -----------------------------------------------------------------------------------


def die_with_parent() -> None:
    """prctl(PR_SET_PDEATHSIG): have this process killed when the one that forked it ends."""
    _check(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL), 0, 0, 0))


# --- fs-verity -----------------------------------------------------------------------------------


def enable_verity(fd: int, algorithm: int, block_size: int = 4096) -> None:
    """FS_IOC_ENABLE_VERITY on the read-only `fd`: from here on the kernel checks every read.

    `algorithm` is 1 (SHA-256) or 2 (SHA-512). The file must not be open for writing anywhere
    (ETXTBSY); it is synchronised to disk. EEXIST: enabled already. An errno of
    `VERITY_UNSUPPORTED`: not to be had here.
    """
    fcntl.ioctl(
        fd, FS_IOC_ENABLE_VERITY, _VERITY_ENABLE.pack(1, algorithm, block_size, 0, 0, 0, 0, 0)
    )


def measure_verity_strict(fd: int) -> tuple[int, bytes] | None:
    """FS_IOC_MEASURE_VERITY: the kernel's (algorithm, digest) of the file behind `fd`.

    None where this file has no fs-verity. An errno of `VERITY_UNSUPPORTED`: no file here can.
    """
    buffer = bytearray(_VERITY_DIGEST.pack(0, _VERITY_DIGEST_MAX)) + bytes(_VERITY_DIGEST_MAX)
    try:
        fcntl.ioctl(fd, FS_IOC_MEASURE_VERITY, buffer)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise
    algorithm, size = _VERITY_DIGEST.unpack_from(buffer)
    return algorithm, bytes(buffer[_VERITY_DIGEST.size : _VERITY_DIGEST.size + size])


def measure_verity(fd: int) -> tuple[int, bytes] | None:
    """The kernel's (algorithm, digest) of the file behind `fd`; None where it has no fs-verity."""
    try:
        return measure_verity_strict(fd)
    except OSError as error:
        if error.errno in VERITY_UNSUPPORTED:
            return None
        raise


# --- mounts and namespaces -----------------------------------------------------------------------


def fsopen(fstype: str) -> int:
    """fsopen(2): a file system context."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_FSOPEN),
            ctypes.c_char_p(fstype.encode()),
            ctypes.c_uint(FSOPEN_CLOEXEC),
        )
    )


def fsconfig(
    fd: int, command: int, key: str | None, value: str | None = None, aux: int = 0
) -> None:
    """fsconfig(2): one option of the context, or `FSCONFIG_CMD_CREATE`."""
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_FSCONFIG),
            ctypes.c_int(fd),
            ctypes.c_uint(command),
            ctypes.c_char_p(None if key is None else key.encode()),
            ctypes.c_char_p(None if value is None else os.fsencode(value)),
            ctypes.c_int(aux),
        ),
        key,
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): the created context as a detached mount."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_FSMOUNT),
            ctypes.c_int(fd),
            ctypes.c_uint(FSMOUNT_CLOEXEC),
            ctypes.c_uint(attributes),
        )
    )


def fs_messages(fd: int) -> list[str]:
    """What the kernel has to say about the context's last failure, one line each."""
    lines: list[str] = []
    while True:
        try:
            message = os.read(fd, 4096)  # "e text", one message a call
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EINVAL):
                return lines
            raise
        if not message:
            return lines
        lines.append(message.decode(errors="replace").strip().removeprefix("e "))


def idmap_mount(fd: int, user_namespace: int) -> None:
    """mount_setattr(2): shift owners in the detached mount `fd` by the map of a user namespace."""
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_int(fd),
            ctypes.c_char_p(b""),
            ctypes.c_uint(AT_EMPTY_PATH),
            ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
        )
    )


def open_tree(dirfd: int, path: str | bytes, flags: int) -> int:
    """open_tree(2): a mount, or with `OPEN_TREE_CLONE` a detached copy of it."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_OPEN_TREE),
            ctypes.c_int(dirfd),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.c_uint(flags | OPEN_TREE_CLOEXEC),
        ),
        path,
    )


def move_mount(
    fd: int, target: str | bytes, *, target_dirfd: int = AT_FDCWD, flags: int = 0
) -> None:
    """move_mount(2): attach the detached mount `fd` at `target`."""
    _check(
        _libc.syscall(
            ctypes.c_long(_SYS_MOVE_MOUNT),
            ctypes.c_int(fd),
            ctypes.c_char_p(b""),
            ctypes.c_int(target_dirfd),
            ctypes.c_char_p(os.fsencode(target)),
            ctypes.c_uint(flags | MOVE_MOUNT_F_EMPTY_PATH),
        ),
        target,
    )


def mount(
    source: str | bytes,
    target: str | bytes,
    fstype: str | None,
    flags: int,
    data: str | None = None,
) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            ctypes.c_char_p(os.fsencode(source)),
            ctypes.c_char_p(os.fsencode(target)),
            ctypes.c_char_p(None if fstype is None else fstype.encode()),
            ctypes.c_ulong(flags),
            ctypes.c_char_p(None if data is None else os.fsencode(data)),
        ),
        target,
    )


def umount(target: str | bytes, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(flags)), target)


def unshare(flags: int) -> None:
    """unshare(2): new namespaces for this process, which must have a single thread."""
    _check(_libc.unshare(ctypes.c_int(flags)))
