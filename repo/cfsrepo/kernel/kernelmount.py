"""An image mounted by the kernel: EROFS for the metadata, overlayfs with the objects as data.

    overlay   composefs:NAME        the mount that the user sees
      upperdir, workdir             only of a writable mount
      lowerdir+ erofs               the image file itself; a mount without a place in the tree
      datadir+  REPOSITORY/objects  looked up by the image's redirects, nowhere else visible

What makes it safe: the image's digest is measured on the very descriptor that is then mounted, so
nobody can exchange the file in between; with `verity=require` overlayfs compares the fs-verity
digest of each object with the one in the image when the file is opened, and the kernel checks every
block when it is read.

Kernels differ; each step down is taken only when the one above is refused:

- EROFS from a file (6.12), else from a loop device;
- a layer that is mounted nowhere (6.15), else one at a temporary directory for a moment;
- layers one by one (6.8), else in one option `lowerdir=META::DATA` (6.6), else `META:DATA`, where
  the image's own 256 names hide the object directory, and which knows no fs-verity.

Nothing here is visible in the tree before the last step succeeds; a process killed before it leaves
at most a temporary directory.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from cfsrepo.errors import InputError, MountError, NotFoundError, UsageError, VerityError
from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs import layout
from cfsrepo.store import kernelverity
from cfsrepo.store.kernelverity import unsupported
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux, loopdevice

SOURCE_PREFIX: Final = "composefs:"
ATTRIBUTES: Final = {
    "nosuid": linux.MOUNT_ATTR_NOSUID,
    "nodev": linux.MOUNT_ATTR_NODEV,
    "noexec": linux.MOUNT_ATTR_NOEXEC,
    "noatime": linux.MOUNT_ATTR_NOATIME,
}
# What a kernel answers to a layer, or a way of giving it, that it does not know.
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ELOOP, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Upper:
    """Where a writable mount keeps what is changed; both on the same file system."""

    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class Options:
    """How to mount. Paths are those of this process."""

    name: str
    """What the mount table calls the source, after `composefs:`."""
    require_verity: bool = False
    """The kernel compares every object with the image."""
    upper: Upper | None = None
    in_memory: bool = False
    """Writable, with changes in a tmpfs that goes with the mount."""
    read_only: bool = True
    attributes: frozenset[str] = frozenset()
    """Of `ATTRIBUTES`."""
    user_namespace: str | None = None
    """Path of a user namespace whose map shifts owners (`/proc/PID/ns/user`)."""


@contextmanager
def measured_image(
    repository: Repository, image_id: str, *, require_verity: bool, expected: str | None = None
) -> Iterator[int]:
    """A descriptor of the image file, whose digest was measured on this descriptor.

    Only images listed under `images/` are found. `VerityError` where the digest is not `expected`,
    where the kernel measures another one, or where it measures none and `require_verity` is set;
    without that the digest is computed in user space.
    """
    if not repository.has_image(image_id):
        raise NotFoundError(
            f"{image_id}: not listed under {repository.path}/images", hint="'cfs images' lists them"
        )
    digest = bytes.fromhex(image_id)
    if expected is not None and expected.lower() != image_id:
        raise VerityError(f"{image_id}: the image's digest, but {expected} is required")
    path = f"{repository.objects.path}/{object_path(digest)}"
    fd = repository.objects.open(digest)
    try:
        measured = kernelverity.measure(fd, repository.algorithm)
        if measured is None and require_verity:
            raise _no_verity(repository, fd, path)
        if (measured or fsverity.digest_fd(fd, repository.algorithm)) != digest:
            raise VerityError(f"{path}: the image file does not have this digest: not mounted")
        yield fd
    finally:
        os.close(fd)


def is_available() -> bool:
    """Whether this kernel has the mount calls that are used here (Linux 5.2)."""
    try:
        os.close(linux.fsopen("overlay"))
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def is_protected(repository: Repository, image_id: str) -> bool:
    """Whether the kernel guards the image file by fs-verity."""
    if not repository.has_image(image_id):
        return False
    fd = repository.objects.open(bytes.fromhex(image_id))
    try:
        return kernelverity.measure(fd, repository.algorithm) is not None
    finally:
        os.close(fd)


def _no_verity(repository: Repository, fd: int, path: str) -> VerityError:
    """Why the image file at `path` cannot be guarded by the kernel, and what to do."""
    try:
        linux.enable_verity(fd, 0)  # an algorithm that does not exist: asks, changes nothing
    except OSError as error:
        if error.errno in linux.VERITY_UNSUPPORTED:
            return unsupported(repository.path)
    hint = f"cfs --repo {repository.path} verity enable"
    return VerityError(f"{path}: the image file has no fs-verity", hint=hint)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A mount that exists and is nowhere in the tree yet."""

    fd: int
    source: str
    """As the mount table will show it."""
    device: tuple[int, int]
    """Major and minor number of the file system, as the mount table will show it."""
    notes: tuple[str, ...] = ()
    """What was done another way than on a recent kernel, one line each."""

    def attach(self, target: str | bytes) -> None:
        """Put it at the directory `target`. Raises `MountError`."""
        try:
            linux.move_mount(self.fd, target)
        except OSError as error:
            raise _failure(error, target) from error


@contextmanager
def prepared(image: int, objects: str, options: Options) -> Iterator[Prepared]:
    """The image file behind `image`, its objects below `objects`, as a mount to be attached.

    `image` comes from `measured_image`. What is not attached in the body is gone after it. Raises
    `MountError`.
    """
    unknown = options.attributes - ATTRIBUTES.keys()
    if unknown:
        raise UsageError(f"{', '.join(sorted(unknown))}: unknown mount option")
    with ExitStack() as stack:
        notes: list[str] = []
        try:
            metadata = stack.enter_context(_metadata_mount(image, options, notes))
            upper = options.upper
            if options.in_memory:
                upper = stack.enter_context(_memory(metadata))
            overlay = stack.enter_context(_overlay(metadata, objects, upper, options, notes))
            device = os.stat(f"/proc/self/fd/{overlay}/.").st_dev
        except OSError as error:
            raise _failure(error, options.name) from error
        number = (os.major(device), os.minor(device))
        yield Prepared(overlay, SOURCE_PREFIX + options.name, number, tuple(notes))


def mount(image: int, objects: str, target: str | bytes, options: Options) -> None:
    """`prepared`, and attached at `target`."""
    with prepared(image, objects, options) as mounted:
        mounted.attach(target)


def _failure(error: OSError, target: str | bytes) -> MountError:
    if isinstance(error, PermissionError):
        return MountError(
            f"{os.fsdecode(target)}: the kernel lets only root mount an image",
            hint="as a user mount it by FUSE: cfs mount --fuse",
        )
    name = os.fsdecode(error.filename) if error.filename else os.fsdecode(target)
    return MountError(f"{name}: cannot be mounted: {error.strerror}")


# --- metadata ------------------------------------------------------------------------------------


@contextmanager
def _metadata_mount(image: int, options: Options, notes: list[str]) -> Iterator[int]:
    """The image as a detached EROFS mount."""
    flags = ["ro"] if _has_acl(image) else ["ro", "noacl"]
    with ExitStack() as stack:
        try:
            mounted = _create(
                "erofs", flags, [("source", f"/proc/self/fd/{image}")], linux.MOUNT_ATTR_RDONLY
            )
        except _RefusedError as refused:
            if refused.code != errno.ENOTBLK:  # Linux before 6.12 wants a block device
                raise refused.error("the image") from refused
            device = stack.enter_context(loopdevice.attached(image))
            notes.append("EROFS reads a loop device: this kernel mounts no file (Linux 6.12 does)")
            try:
                mounted = _create("erofs", flags, [("source", device)], linux.MOUNT_ATTR_RDONLY)
            except _RefusedError as again:
                raise again.error("the image") from again
        stack.callback(os.close, mounted)
        if options.user_namespace is not None:
            _shift_owners(mounted, options.user_namespace)
        yield mounted


def _has_acl(image: int) -> bool:
    header = os.pread(image, layout.HEADER.size, 0)
    if len(header) < layout.HEADER.size:
        raise InputError("the image file is cut short")
    magic, _, flags, _ = layout.HEADER.unpack(header)
    if magic != layout.COMPOSEFS_MAGIC:
        raise InputError("the image file is not a composefs image")
    return bool(flags & layout.FLAG_HAS_ACL)


def _shift_owners(mounted: int, user_namespace: str) -> None:
    try:
        with linux.opened(user_namespace, os.O_RDONLY) as namespace:
            linux.idmap_mount(mounted, namespace)
    except OSError as error:
        raise MountError(
            f"{user_namespace}: owners cannot be shifted by it: {error.strerror}",
            hint="give the user namespace of another process: /proc/PID/ns/user",
        ) from error


# --- overlay -------------------------------------------------------------------------------------


@contextmanager
def _overlay(
    metadata: int, objects: str, upper: Upper | None, options: Options, notes: list[str]
) -> Iterator[int]:
    """The whole as a detached overlay mount."""
    settings = [
        ("source", SOURCE_PREFIX + options.name),
        ("metacopy", "on"),
        ("redirect_dir", "on"),
    ]
    if options.require_verity:
        settings.append(("verity", "require"))
    changes = []
    if upper is not None:
        for path in (upper.upper, upper.work):
            os.stat(path)  # the kernel would not say which of all is missing
        # Overlayfs undoes escapes in these two, and in no `+` option.
        changes = [("upperdir", _escape(upper.upper)), ("workdir", _escape(upper.work))]
    attributes = 0
    for name in options.attributes:
        attributes |= ATTRIBUTES[name]
    if options.read_only or upper is None:
        attributes |= linux.MOUNT_ATTR_RDONLY
    flags = ["ro"] if options.read_only and upper is not None else []

    def create(layers: list[tuple[str, str]]) -> int:
        return _create("overlay", flags, [*settings, *layers, *changes], attributes)

    with ExitStack() as stack:
        mounted = _first_accepted(create, metadata, objects, options.require_verity, notes)
        stack.callback(os.close, mounted)
        yield mounted


def _first_accepted(
    create: Callable[[list[tuple[str, str]]], int],
    metadata: int,
    objects: str,
    verity: bool,
    notes: list[str],
) -> int:
    """The overlay mount, by the newest way to give layers that this kernel takes."""
    refusals = []
    try:
        return create([("lowerdir+", f"/proc/self/fd/{metadata}"), ("datadir+", objects)])
    except _RefusedError as refused:
        refusals.append(refused)
    with _attached(metadata) as place:
        at, data = _escape(place), _escape(objects)
        ways = [
            ([("lowerdir+", place), ("datadir+", objects)], "no layer that is mounted nowhere"),
            ([("lowerdir", f"{at}::{data}")], "no layers one by one (Linux 6.8 does)"),
        ]
        if not verity:
            way = [("lowerdir", f"{at}:{data}")]
            ways.append((way, "no layers for data only (Linux 6.6 does)"))
        for layers, lack in ways:
            try:
                mounted = create(layers)
            except _RefusedError as refused:
                refusals.append(refused)
                if refused.code not in _UNKNOWN:
                    break
            else:
                notes.append(f"overlayfs of this kernel takes {lack}")
                return mounted
    # The kernel's words on the way it knows best: the last that made it say something.
    told = next((refused for refused in reversed(refusals) if refused.messages), refusals[-1])
    raise told.error("overlayfs") from told


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")


@contextmanager
def _attached(mounted: int) -> Iterator[str]:
    """The detached mount `mounted` at a temporary directory that only we can enter."""
    place = tempfile.mkdtemp(prefix=".cfs-mount-", dir="/run" if os.path.isdir("/run") else None)
    try:
        linux.move_mount(mounted, place)
        try:
            yield place
        finally:
            linux.umount(place, linux.MNT_DETACH)
    finally:
        os.rmdir(place)


@contextmanager
def _memory(metadata: int) -> Iterator[Upper]:
    """Upper and work directory in a tmpfs that lives as long as the overlay made in the body."""
    try:
        mounted = _create("tmpfs", [], [("mode", "0700"), ("source", "composefs")], 0)
    except _RefusedError as refused:
        raise refused.error("tmpfs") from refused
    try:
        with _attached(mounted) as place:
            upper, work = os.path.join(place, "upper"), os.path.join(place, "work")
            os.mkdir(upper)
            os.mkdir(work)
            # The root of the whole is the upper directory: it must look like the image's.
            root = os.stat(f"/proc/self/fd/{metadata}/.")
            os.chown(upper, root.st_uid, root.st_gid)
            os.chmod(upper, stat.S_IMODE(root.st_mode))
            os.utime(upper, ns=(root.st_mtime_ns, root.st_mtime_ns))
            yield Upper(upper, work)
    finally:
        os.close(mounted)


# --- the mount API -------------------------------------------------------------------------------


class _RefusedError(Exception):
    """The kernel does not make this file system; carries what it said."""

    def __init__(self, fstype: str, error: OSError, messages: list[str]) -> None:
        super().__init__(fstype)
        self.fstype = fstype
        self.code = error.errno or errno.EIO
        self.messages = messages

    def error(self, what: str) -> MountError | OSError:
        """For the user."""
        if self.code in (errno.EPERM, errno.EACCES) and not self.messages:
            return PermissionError(self.code, os.strerror(self.code))
        if self.code == errno.ENODEV:
            return MountError(
                f"this kernel has no {self.fstype}", hint=f"as root run: modprobe {self.fstype}"
            )
        reason = "; ".join(self.messages) or os.strerror(self.code)
        return MountError(f"{what} cannot be mounted by this kernel: {reason}")


def _create(fstype: str, flags: list[str], settings: list[tuple[str, str]], attributes: int) -> int:
    """A detached mount of a new `fstype` file system; `_RefusedError` where the kernel will not."""
    try:
        context = linux.fsopen(fstype)
    except OSError as error:
        raise _RefusedError(fstype, error, []) from error
    try:
        for flag in flags:
            linux.fsconfig(context, linux.FSCONFIG_SET_FLAG, flag)
        for key, value in settings:
            linux.fsconfig(context, linux.FSCONFIG_SET_STRING, key, value)
        linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE, None)
        return linux.fsmount(context, attributes)
    except OSError as error:
        raise _RefusedError(fstype, error, linux.fs_messages(context)) from error
    finally:
        os.close(context)
