"""Mounting images."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import IMAGE, JSON, OBJECTS

COMMANDS = (
    Command(
        "mount",
        arguments=(
            IMAGE,
            Argument(
                "dir", "DIR", "an empty directory of yours to mount on", completes="directory"
            ),
        ),
        options=(
            OBJECTS,
            Option(("--foreground",), "serve in this process, log to stderr"),
            Option(
                ("--verify",),
                "who checks each object's digest: the kernel where it can, else cfs (auto, the "
                "default); always cfs; or nobody",
                value="WHO",
                choices=("auto", "always", "off"),
            ),
            Option(
                ("--enforce-permissions",),
                "let the kernel check owner and mode, instead of showing everything to you",
            ),
            Option(("--uid",), "show everything as owned by this user id", value="N"),
            Option(("--gid",), "show everything as owned by this group id", value="N"),
            Option(
                ("--idmap",),
                "show ids from IMAGE on as ids from MOUNT on, others as 65534; a kernel mount also "
                "takes a user namespace, as a process id or /proc/PID/ns/user",
                value="[u:|g:]IMAGE:MOUNT:COUNT,...",
            ),
            Option(("--subdir",), "this directory of the image is the root", value="PATH"),
            Option(
                ("--engine",),
                "which FUSE server: direct (the default; needs no open requests) or pyfuse3",
                value="NAME",
                choices=("direct", "pyfuse3"),
            ),
            Option(
                ("--log",),
                "log of the server (default: /var/log/cfsfuse.log for root, else "
                "cfsfuse/cfsfuse.log in $XDG_STATE_HOME)",
                value="FILE",
                completes="file",
            ),
            Option(
                ("-o",),
                "options as in fstab: allow_other, allow_root, suid, dev, noexec, and those above "
                "as verify=, uid=, gid=, idmap=, subdir=, engine=, repo=, enforce_permissions; of "
                "a kernel mount nosuid, nodev, noexec, rw, memory, verity, noverity, digest=, "
                "upperdir=, workdir=, helper=",
                value="OPTION,...",
                name="options",
                repeated=True,
            ),
            Option(("--fuse",), "mount by FUSE, the default for all users but root"),
            Option(("--kernel",), "mount by the kernel, the default for root"),
            Option(
                ("--require-verity",),
                "the kernel compares every file with the image by fs-verity; default: on where "
                "the repository's policy is 'require' or the image file has fs-verity",
                default=None,
            ),
            Option(
                ("--no-require-verity",),
                "do not have the kernel compare files with the image",
                name="require_verity",
                sets=False,
                default=None,
            ),
            Option(
                ("--digest",),
                "refuse an image with another id than this; implies --require-verity",
                value="HEX",
            ),
            Option(("--rw",), "writable; changes are in memory and go with the mount"),
            Option(
                ("--upper",),
                "writable; changes are kept in DIR (with --work)",
                value="DIR",
                completes="directory",
            ),
            Option(
                ("--work",),
                "an empty directory on the file system of --upper",
                value="DIR",
                completes="directory",
            ),
            Option(("--read-only",), "with --upper: show the changes, take no new ones"),
            Option(
                ("--helper",),
                "what makes the mount: builtin (auto), or the C program mount.composefs",
                value="NAME",
                choices=("auto", "mount.composefs", "builtin"),
            ),
        ),
        examples=(
            Example("cfs mount debian mnt", "mount an image, as any user"),
            Example(
                "cfs mount --digest HEX -o nosuid,nodev app /srv/app",
                "as root: refuse any image but this one",
            ),
        ),
    ),
    Command(
        "umount",
        arguments=(Argument("dir", "DIR", "where it is mounted", "*", completes="mount"),),
        options=(
            Option(("--all",), "all mounts of yours"),
            Option(("--lazy",), "detach now, end when nothing uses it any more"),
        ),
        examples=(Example("cfs umount mnt", "unmount"),),
    ),
    Command(
        "mounts",
        options=(JSON,),
        examples=(Example("cfs mounts", "list the mounts and what their servers have done"),),
    ),
)
