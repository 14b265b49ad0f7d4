"""Keeping a repository small, sound and protected."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import IMAGE, JSON, VERITY_POLICIES

_IMAGES = IMAGE._replace(name="images", nargs="*")

COMMANDS = (
    Command("info", options=(JSON,), examples=(Example("cfs info", "show the repository"),)),
    Command(
        "du",
        arguments=(_IMAGES._replace(help="only these (default: all)"),),
        options=(JSON,),
        examples=(Example("cfs du", "show what each image uses"),),
    ),
    Command(
        "pin",
        arguments=(IMAGE._replace(help="the image to keep (default: list the pins)", nargs="?"),),
        options=(
            Option(("--reason",), "why, for whoever finds the pin", value="TEXT", default=""),
            JSON,
        ),
        examples=(Example("cfs pin debian --reason 'the audit'", "keep an image"),),
    ),
    Command(
        "unpin",
        arguments=(
            Argument(
                "pin",
                "PIN|IMAGE",
                "a pin as 'cfs pin' lists it, or an image: all its pins",
                completes="pin",
            ),
        ),
        examples=(Example("cfs unpin debian", "remove all pins of an image"),),
    ),
    Command(
        "gc",
        options=(
            Option(("-n", "--dry-run"), "say what would be removed, remove nothing"),
            JSON,
        ),
        examples=(Example("cfs gc --dry-run", "show what a collection would free"),),
    ),
    Command(
        "fsck",
        arguments=(_IMAGES._replace(help="check what these need (default: everything)"),),
        options=(
            JSON,
            Option(("--metadata-only",), "do not read the content of files"),
            Option(("--deep",), "read files too that the kernel protects"),
            Option(
                ("--repair",),
                "make again what is damaged or missing, move to quarantine what cannot be",
            ),
            Option(
                ("--from",),
                "for --repair: where to take objects from, oci:DIR[:REF] or another repository",
                value="SOURCE",
                name="sources",
                repeated=True,
                completes="file",
            ),
        ),
        exclusive=(("metadata_only", "deep"),),
        examples=(
            Example("cfs fsck", "check everything"),
            Example("cfs fsck --repair --from oci:debian-oci", "get damaged objects again"),
        ),
    ),
    Command(
        "clone",
        arguments=(
            Argument("source", "SRC", "a repository", completes="directory"),
            Argument(
                "target",
                "DST",
                "another one, made with the same algorithm if missing",
                completes="directory",
            ),
            _IMAGES._replace(help="these only (default: all with a name)"),
        ),
        options=(
            Option(
                ("--share",),
                "how files may share their data: reflink, else hard link, else copied (auto); "
                "what the file system cannot do is copied",
                value="WAY",
                choices=("auto", "reflink", "hardlink", "copy"),
                default="auto",
            ),
            Option(
                ("--verity",),
                "policy of a target that is made (default: the source's)",
                value="POLICY",
                choices=VERITY_POLICIES,
            ),
            JSON,
        ),
        examples=(Example("cfs clone repository backup debian", "copy one image"),),
    ),
    Command(
        "verity",
        arguments=(
            Argument(
                "action",
                "status|enable",
                "status: ask the kernel about every object; enable: protect every object in place, "
                "and require fs-verity from then on",
                choices=("status", "enable"),
            ),
        ),
        options=(JSON,),
        examples=(Example("cfs verity enable", "protect a repository in place"),),
    ),
)
