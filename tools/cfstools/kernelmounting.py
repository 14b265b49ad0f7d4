"""`cfs mount` by the kernel: measured, mounted, pinned.

What `cfs mount` does for root unless `--fuse`, or an option that only a FUSE mount has, is given.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

from cfsfuse import unmounting
from cfsrepo.errors import (
    CfsError,
    MountError,
    RepositoryError,
    SystemFailure,
    UsageError,
    printable,
)
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.images import names
from cfsrepo.images.owners import parse_idmap
from cfsrepo.kernel import kernelmount
from cfsrepo.kernel.kernelmount import Options
from cfsrepo.store import pins
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux, usernamespace
from cfstools.context import open_repository
from cfstools.mountrequest import Helper, KernelRequest
from cfstools.options import Arguments

_HELPER = "mount.composefs"


def run(args: Arguments, request: KernelRequest) -> int:
    """`cfs mount` by the kernel."""
    point = unmounting.check_mount_point(args.dir)
    with open_repository(args) as repository, ExitStack() as stack:
        image = names.resolve(repository, args.image)
        required = _verity_required(request, repository, image.image_id)
        options = Options(
            name=image.name,
            require_verity=required,
            upper=request.layers,
            in_memory=request.in_memory,
            read_only=request.read_only or not (request.in_memory or request.layers),
            attributes=request.attributes,
            user_namespace=_user_namespace(request.idmap, stack),
        )
        measured = kernelmount.measured_image(
            repository, image.image_id, require_verity=required, expected=request.digest
        )
        fd = stack.enter_context(measured)
        if _helper(request.helper) is Helper.MOUNT_COMPOSEFS:
            _run_helper(repository, fd, point, options)
            _pin(repository, image.image_id, point, None)
            return 0
        with kernelmount.prepared(fd, repository.objects.path, options) as mounted:
            # Before anybody sees the mount: there is no moment in which it is not pinned.
            pin = _pin(repository, image.image_id, point, mounted.device)
            try:
                mounted.attach(point)
            except CfsError:
                if pin is not None:
                    pins.remove(repository, pin)
                raise
        if args.verbose:
            verity = "compares every file with the image" if required else "is not enforced"
            for note in (*mounted.notes, f"fs-verity {verity}"):
                print(f"cfs: {note}", file=sys.stderr)
    return 0


def _verity_required(request: KernelRequest, repository: Repository, image_id: str) -> bool:
    if request.digest is not None:
        return True
    if request.require_verity is not None:
        return request.require_verity
    if repository.policy is VerityPolicy.TRY:
        return kernelmount.is_protected(repository, image_id)
    return repository.policy is VerityPolicy.REQUIRE


def _user_namespace(text: str | None, stack: ExitStack) -> str | None:
    """The path of the user namespace that `--idmap` names, or of a new one with its ranges."""
    if text is None or text.startswith("/"):
        return text
    if text.isdecimal():
        return f"/proc/{text}/ns/user"
    uids, gids = parse_idmap(text)
    try:
        return stack.enter_context(
            usernamespace.mapped(
                [(row.image, row.mount, row.count) for row in uids],
                [(row.image, row.mount, row.count) for row in gids],
            )
        )
    except OSError as error:
        raise MountError(f"--idmap {text}: cannot be set up: {error.strerror}") from error


def _pin(
    repository: Repository, image_id: str, point: bytes, device: tuple[int, int] | None
) -> pins.Pin | None:
    try:
        return pins.pin_mount(repository, image_id, os.fsdecode(point), device)
    except (RepositoryError, SystemFailure, OSError) as error:
        text = printable(str(error))
        print(f"cfs: mounted, but a collection does not know of it: {text}", file=sys.stderr)
        return None


# --- mount.composefs -----------------------------------------------------------------------------


def _helper(chosen: Helper) -> Helper:
    if chosen is not Helper.AUTO:
        return chosen
    if kernelmount.is_available() or shutil.which(_HELPER) is None:
        return Helper.BUILTIN
    return Helper.MOUNT_COMPOSEFS


def _run_helper(repository: Repository, image: int, point: bytes, options: Options) -> None:
    """Let mount.composefs mount the image file behind the descriptor `image`."""
    if options.in_memory or options.attributes:
        raise UsageError(
            f"{_HELPER} knows neither --rw nor mount options", hint="use --helper=builtin"
        )
    if options.require_verity and repository.algorithm is not Algorithm.SHA256:
        raise UsageError(f"{_HELPER} knows SHA-256 only", hint="use --helper=builtin")
    program = shutil.which(_HELPER, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise MountError(
            f"{_HELPER} is not installed",
            hint="install the package composefs, or use --helper=builtin",
        )
    with ExitStack() as stack:
        flags = os.O_PATH | os.O_DIRECTORY
        objects = stack.enter_context(linux.opened(repository.objects.path, flags))
        # By descriptor: the very file that was measured, and no path needs an escape.
        words = [f"basedir=/proc/self/fd/{objects}", "ro" if options.read_only else "rw"]
        if options.require_verity:
            words.append("verity")
        if options.user_namespace is not None:
            words.append(f"idmap={options.user_namespace}")
        if options.upper is not None:
            words += [f"upperdir={options.upper.upper}", f"workdir={options.upper.work}"]
        text = ",".join(word.replace(",", "\\,") for word in words)
        done = subprocess.run(
            [program, "-o", text, f"/proc/self/fd/{image}", point],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(image, objects),
            check=False,
        )
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise MountError(f"{printable(point)}: {_HELPER} failed: {text}")
