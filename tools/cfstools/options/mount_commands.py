"""Mounting images."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option, mount_options
from cfstools.options.common import IMAGE, JSON

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
            *mount_options.FLAGS,
            Option(
                ("-o",),
                "options as in fstab, listed below; flags win over them",
                value="OPTION,...",
                name="options",
                repeated=True,
                completes="mount-option",
            ),
        ),
        sections=(("Options of -o and of fstab", tuple(mount_options.documented())),),
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
        arguments=(
            Argument(
                "dir",
                "DIR|IMAGE",
                "where it is mounted, or an image: all your mounts of it",
                "*",
                completes="mount",
            ),
        ),
        options=(
            Option(("--all",), "all mounts of yours"),
            Option(("--user",), "with --all, as root: all mounts of this user", value="NAME"),
            Option(("--lazy",), "detach now, end when nothing uses it any more"),
        ),
        examples=(
            Example("cfs umount mnt", "unmount"),
            Example("cfs umount debian", "unmount an image wherever you mounted it"),
        ),
    ),
    Command(
        "mounts",
        options=(JSON,),
        examples=(Example("cfs mounts", "list the mounts and what their servers have done"),),
    ),
)
