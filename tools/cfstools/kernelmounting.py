"""`cfs mount --kernel`: its options, and what it does with them.

What `cfs mount` does for root unless `--fuse`, or an option that only a FUSE mount has, is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from enum import StrEnum

from cfsrepo import kernelmount, linux, pins
from cfsrepo.errors import (
    CfsError,
    MountError,
    RepositoryError,
    SystemFailure,
    UsageError,
    printable,
)
from cfsrepo.fsverity import Algorithm, VerityPolicy
from cfsrepo.kernelmount import Options, Upper
from cfsrepo.repository import Repository
from cfstools.imagesource import ImageSource

_HELPER = "mount.composefs"


class Helper(StrEnum):
    """Who makes the mount."""

    AUTO = "auto"
    """Ourselves, since no other program gives the mount the image's name; mount.composefs where
    this kernel is too old for us and that is installed."""
    MOUNT_COMPOSEFS = "mount.composefs"
    BUILTIN = "builtin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a kernel mount, in a group of their own, and `--fuse`."""
    parser.add_argument(
        "--fuse", action="store_true", help="mount by FUSE, the default for all users but root"
    )
    group = parser.add_argument_group("kernel mount (root)")
    group.add_argument(
        "--kernel", action="store_true", help="mount by the kernel, the default for root"
    )
    group.add_argument(
        "--require-verity",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the kernel compares every file with the image by fs-verity; default: on where the "
        "repository's policy is 'require' or the image file has fs-verity",
    )
    group.add_argument(
        "--digest",
        metavar="HEX",
        help="refuse an image with another id than this; implies --require-verity",
    )
    group.add_argument(
        "--rw", action="store_true", help="writable; changes are in memory and go with the mount"
    )
    group.add_argument(
        "--upper", metavar="DIR", help="writable; changes are kept in DIR (with --work)"
    )
    group.add_argument(
        "--work", metavar="DIR", help="an empty directory on the file system of --upper"
    )
    group.add_argument(
        "--read-only", action="store_true", help="with --upper: show the changes, take no new ones"
    )
    group.add_argument(
        "--idmap",
        metavar="NS",
        help="shift owners as the user namespace NS does: a process id, or /proc/PID/ns/user",
    )
    group.add_argument(
        "-o",
        dest="mount_options",
        metavar="OPTIONS",
        default="",
        help=f"of {', '.join(kernelmount.ATTRIBUTES)}; separated by commas",
    )
    group.add_argument(
        "--helper",
        type=Helper,
        choices=list(Helper),
        default=Helper.AUTO,
        help="what makes the mount: builtin (auto), or the C program mount.composefs",
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether `args` ask for a kernel mount. `UsageError` for options that exclude each other."""
    only_fuse = [
        option
        for option, given in (
            ("--fuse", args.fuse),
            ("--foreground", args.foreground),
            ("--enforce-permissions", args.enforce_permissions),
            ("--objects", args.objects is not None),
        )
        if given
    ]
    only_kernel = [
        option
        for option, given in (
            ("--kernel", args.kernel),
            ("--require-verity", args.require_verity is not None),
            ("--digest", args.digest is not None),
            ("--rw", args.rw),
            ("--upper", args.upper is not None),
            ("--work", args.work is not None),
            ("--read-only", args.read_only),
            ("--idmap", args.idmap is not None),
            ("-o", bool(args.mount_options)),
            ("--helper", args.helper is not Helper.AUTO),
        )
        if given
    ]
    if only_fuse and only_kernel:
        raise UsageError(
            f"{only_fuse[0]} is for FUSE mounts, {only_kernel[0]} for kernel mounts",
            hint="give only one of them",
        )
    return bool(only_kernel) or (not only_fuse and os.geteuid() == 0)


def run(args: argparse.Namespace, point: bytes, source: ImageSource) -> int:
    """Mount the image of `source`, which is of a repository, at `point`."""
    if (args.upper is None) != (args.work is None):
        raise UsageError("--upper and --work belong together", hint="give both or none")
    if args.rw and args.upper is not None:
        raise UsageError("--rw keeps changes in memory, --upper in a directory")
    assert source.repository is not None
    assert source.image_id is not None
    with Repository.open(source.repository) as repository:
        required = _verity_required(args, repository, source.image_id)
        options = Options(
            name=source.name,
            require_verity=required,
            upper=args.upper and Upper(os.path.abspath(args.upper), os.path.abspath(args.work)),
            in_memory=args.rw,
            read_only=args.read_only or not (args.rw or args.upper),
            attributes=frozenset(word for word in args.mount_options.split(",") if word),
            user_namespace=_user_namespace(args.idmap),
        )
        with kernelmount.measured_image(
            repository, source.image_id, require_verity=required, expected=args.digest
        ) as image:
            if _helper(args.helper) is Helper.MOUNT_COMPOSEFS:
                _run_helper(repository, image, point, options)
                _pin(repository, source.image_id, point, None)
                return 0
            with kernelmount.prepared(image, repository.objects.path, options) as mounted:
                # Before anybody sees the mount: there is no moment in which it is not pinned.
                pin = _pin(repository, source.image_id, point, mounted.device)
                try:
                    mounted.attach(point)
                except CfsError:
                    if pin is not None:
                        pins.remove(repository, pin)
                    raise
    return 0


def _verity_required(args: argparse.Namespace, repository: Repository, image_id: str) -> bool:
    if args.digest is not None:
        return True
    if args.require_verity is not None:
        return bool(args.require_verity)
    if repository.policy is VerityPolicy.TRY:
        return kernelmount.is_protected(repository, image_id)
    return repository.policy is VerityPolicy.REQUIRE


def _user_namespace(text: str | None) -> str | None:
    return f"/proc/{text}/ns/user" if text is not None and text.isdecimal() else text


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
