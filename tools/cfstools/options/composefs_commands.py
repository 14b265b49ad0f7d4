"""composefs-dump(5) text, and composefs's own programs."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import IMAGE, JSON, OBJECTS

COMMANDS = (
    Command(
        "dump",
        arguments=(IMAGE,),
        options=(
            OBJECTS,
            Option(
                ("--filter",),
                "of what is in the root only NAME; may be given several times",
                value="NAME",
                repeated=True,
            ),
        ),
        examples=(Example("cfs dump debian > debian.dump", "write an image as text"),),
    ),
    Command(
        "import-dump",
        arguments=(
            Argument("file", "FILE", "the dump; `-` is standard input", completes="file"),
            Argument("name", "NAME", "name of the image in the repository"),
        ),
        options=(
            Option(
                ("--maker",),
                "who makes the image file; the result is the same",
                value="WHO",
                choices=("auto", "builtin", "mkcomposefs", "both"),
                default="auto",
            ),
            Option(
                ("--allow-missing",),
                "take the image even if objects that it needs are not in the repository (yet)",
            ),
            JSON,
        ),
        examples=(Example("cfs import-dump debian.dump copy", "make an image from text"),),
    ),
    Command(
        "mkcomposefs",
        foreign=True,
        description="Takes the arguments of mkcomposefs(1).",
        examples=(Example("cfs mkcomposefs --print-digest-only rootfs", "print an image's id"),),
    ),
    Command(
        "composefs-info",
        foreign=True,
        description="Takes the arguments of composefs-info(1).",
        examples=(Example("cfs composefs-info objects image", "list the objects of an image"),),
    ),
)
