"""Getting images and naming them."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import (
    ALGORITHMS,
    IMAGE,
    JSON,
    LIMITS,
    PLATFORM,
    REFERENCE_HELP,
    REGISTRY,
    VERITY_POLICIES,
    XATTRS,
)

COMMANDS = (
    Command(
        "init",
        options=(
            Option(
                ("--algorithm",),
                "digest of all objects; the C tools of composefs know the default only",
                value="NAME",
                choices=ALGORITHMS,
                default=ALGORITHMS[0],
            ),
            Option(
                ("--verity",),
                "have the kernel protect every object by fs-verity: 'require' fails without it, "
                "'try' uses it where the file system has it, 'off' never does",
                value="POLICY",
                choices=VERITY_POLICIES,
                default="try",
            ),
            JSON,
        ),
        examples=(
            Example("cfs init", "make the default repository"),
            Example(
                "cfs --repo /var/lib/cfsfuse init --verity=require",
                "make one whose images the kernel protects",
            ),
        ),
    ),
    Command(
        "pull",
        arguments=(
            Argument("source", "SOURCE", REFERENCE_HELP, completes="file"),
            Argument(
                "name",
                "NAME",
                "what to call it (default: its name in the registry; DIR:REF, without the path)",
                nargs="?",
            ),
        ),
        options=(XATTRS, PLATFORM, *REGISTRY, *LIMITS, JSON),
        examples=(
            Example("cfs pull debian:13", "from the registry that registries.conf(5) says"),
            Example("cfs pull oci:debian-oci:demo debian", "from a directory; call it debian"),
        ),
        description="The default repository is made where there is none; one that --repo or "
        "$CFS_REPO names is not. What was received of a layer is kept when the pull ends early, "
        "however that happens; the next pull goes on from there.",
    ),
    Command(
        "images",
        options=(JSON,),
        description="With -q only the whole image ids are printed, each once.",
        examples=(Example("cfs images", "a line for each name"),),
    ),
    Command(
        "inspect",
        arguments=(IMAGE,),
        options=(
            JSON,
            Option(("--manifest",), "print the OCI manifest, byte for byte"),
            Option(("--config",), "print the OCI config, byte for byte"),
        ),
        exclusive=(("json", "manifest", "config"),),
        examples=(Example("cfs inspect --config debian", "print the image's OCI config"),),
    ),
    Command(
        "tag",
        arguments=(
            IMAGE,
            Argument("name", "NAME", "the new tag; one that exists is moved"),
        ),
        examples=(Example("cfs tag debian debian:stable", "give the image a second name"),),
    ),
    Command(
        "untag",
        arguments=(
            Argument(
                "names", "NAME", "whole names, as 'cfs images' has them", "+", completes="image"
            ),
        ),
        description="'cfs gc' then frees what nothing else needs.",
        examples=(Example("cfs untag debian:stable && cfs gc", "remove a name, then the data"),),
    ),
    Command(
        "rm",
        arguments=(
            Argument(
                "names", "NAME", "whole names, as 'cfs images' has them", "+", completes="image"
            ),
        ),
        description="As 'cfs untag' and then 'cfs gc'.",
        examples=(Example("cfs rm debian:stable", "remove an image that has no other name"),),
    ),
)
