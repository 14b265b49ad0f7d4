"""Which commands there are, in the groups and the order of the help text.

The module `cfstools.commands.NAME` (`-` becomes `_`) of a command has `run(args) -> int`; programs
of composefs have `main(argv, prog) -> int` instead.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

from cfstools.options import Command


class Group(NamedTuple):
    """Commands that belong together."""

    title: str
    table: str
    """The module here that has the `Command` of each, in `COMMANDS`."""
    summaries: dict[str, str]
    example: str


GROUPS = (
    Group(
        "Images",
        "image_commands",
        {
            "init": "make a new repository",
            "pull": "pull an OCI image into the repository",
            "images": "list the images of the repository",
            "inspect": "show what is known of an image",
            "tag": "give an image another name",
            "untag": "remove names of images",
            "rm": "remove names of images, and what nothing needs then",
        },
        "cfs pull oci:debian-oci:demo debian",
    ),
    Group(
        "Registries",
        "registry_commands",
        {
            "push": "push an image of the repository to a registry, layout or archive",
            "copy": "copy an image between registries, layouts and archives",
            "tags": "list the tags of a name in a registry",
            "login": "log in to a registry",
            "logout": "forget the credentials of a registry",
        },
        "cfs push debian docker://registry.example/me/debian:13",
    ),
    Group(
        "Look",
        "look_commands",
        {
            "ls": "list files of an image",
            "cat": "print files of an image",
            "diff": "compare two images or directories",
        },
        "cfs ls -l debian /etc",
    ),
    Group(
        "Mount",
        "mount_commands",
        {
            "mount": "mount an image, without root or by the kernel",
            "umount": "unmount",
            "mounts": "list the mounts of images",
        },
        "cfs mount debian mnt",
    ),
    Group(
        "Edit",
        "edit_commands",
        {
            "checkout": "make an ordinary directory of an image, to edit without root",
            "unpack": "make such a directory of layers, without a repository",
            "meta": "show, change and check the owners and rights recorded in such a directory",
            "status": "show what was changed in such a directory",
            "commit": "make an image of such a directory",
        },
        "cfs checkout debian tree && cfs commit tree edited",
    ),
    Group(
        "Upkeep",
        "upkeep_commands",
        {
            "info": "show what the repository is, and its state",
            "du": "show how much disk images use and share",
            "pin": "keep an image whatever happens to its names; list pins",
            "unpin": "remove a pin",
            "gc": "remove what no name, pin or mount needs",
            "fsck": "check the repository, and repair it",
            "clone": "copy images to another repository",
            "verity": "show or enable the kernel's protection (fs-verity)",
        },
        "cfs gc --dry-run",
    ),
    Group(
        "composefs's own tools",
        "composefs_commands",
        {
            "dump": "print an image as composefs-dump(5) text",
            "import-dump": "make an image from composefs-dump(5) text",
            "mkcomposefs": "make an image file: composefs's program of that name",
            "composefs-info": "look into image files: composefs's program of that name",
        },
        "cfs mkcomposefs --digest-store=objects rootfs image",
    ),
)
SUMMARIES = {name: text for group in GROUPS for name, text in group.summaries.items()}
# Programs of composefs: `cfs` is one of these when it is called by that name.
PROGRAMS = ("mkcomposefs", "composefs-info")


def command(name: str) -> Command:
    """The declaration of the command `name` of `SUMMARIES`."""
    group = next(group for group in GROUPS if name in group.summaries)
    table = importlib.import_module(f"cfstools.options.{group.table}")
    found: Command = next(entry for entry in table.COMMANDS if entry.name == name)
    return found._replace(summary=group.summaries[name])


def module_name(name: str) -> str:
    """The module that runs the command `name`."""
    return f"cfstools.commands.{name.replace('-', '_')}"
