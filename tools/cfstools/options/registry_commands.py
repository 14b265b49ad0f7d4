"""Registries: sending images there, copying between them, logging in."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import IMAGE, PLATFORM, REFERENCE_HELP, REGISTRY

_HOST = Argument("host", "HOST[:PORT]", "the registry, as it stands in names of images")
_RECOMPRESS = Option(
    ("--recompress",),
    "pack layers afresh, by gzip, whose packed form was not kept; the same layers always give the "
    "same bytes, but the image has another digest then",
)

COMMANDS = (
    Command(
        "push",
        arguments=(
            IMAGE,
            Argument("destination", "DESTINATION", REFERENCE_HELP, completes="file"),
        ),
        options=(_RECOMPRESS, *REGISTRY),
        description="The image arrives as it was pulled, byte for byte. What the destination has "
        "is not sent again.",
        examples=(
            Example("cfs push debian docker://registry.example/me/debian:13", "to a registry"),
            Example("cfs push edited oci:layout:edited", "to a directory that others read"),
        ),
    ),
    Command(
        "copy",
        arguments=(
            Argument("source", "SOURCE", REFERENCE_HELP, completes="file"),
            Argument("destination", "DESTINATION", "the same", completes="file"),
        ),
        options=(
            PLATFORM,
            Option(("--all-platforms",), "copy the image for all platforms, with its index"),
            *REGISTRY,
        ),
        exclusive=(("platform", "all_platforms"),),
        description="No repository is used. Every byte is checked on the way.",
        examples=(
            Example("cfs copy docker://registry.example/app:1 oci-archive:app.tar", "to a file"),
        ),
    ),
    Command(
        "tags",
        arguments=(Argument("name", "HOST/NAME", "a name in a registry"),),
        options=REGISTRY,
        examples=(Example("cfs tags registry.example/me/debian", "a line for each tag"),),
    ),
    Command(
        "login",
        arguments=(_HOST,),
        options=(
            Option(("-u", "--username"), "the user; else it is asked for", value="NAME"),
            Option(("--password-stdin",), "read the password from standard input"),
            *REGISTRY,
        ),
        description="The registry is asked first whether it takes the credentials. They are kept "
        "where podman and skopeo look for them (containers-auth.json(5)).",
        examples=(Example("cfs login registry.example", "asks for user and password"),),
    ),
    Command(
        "logout",
        arguments=(_HOST,),
        options=(REGISTRY[1],),
        examples=(Example("cfs logout registry.example", "forget user and password"),),
    ),
)
