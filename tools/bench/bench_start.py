"""Small commands, which are mostly start, beside cfsctl."""

from __future__ import annotations

import os
import sys

from measure import Contender, Row, Settings, compare, program, quietly, scratch_directory

import imagebuilder

SUBJECT = "start"
DESCRIPTION = "commands that have little to do, ten times in each run"
QUICK = True

TIMES = 10


def _image(directory: str) -> str:
    """An image of a few files."""
    tar = imagebuilder.TarBuilder("gzip", os.path.dirname(directory))
    tar.directory("usr")
    tar.file("usr/file", b"a file larger than what an image keeps inline" * 10)
    writer = imagebuilder.LayoutWriter(directory, "small")
    writer.add_layer(tar.finish())
    writer.finish()
    return f"oci:{directory}:small"


def _repeated(*command: str) -> list[str]:
    """`command`, TIMES times."""
    loop = f'for i in {" ".join(map(str, range(TIMES)))}; do "$@" > /dev/null || exit; done'
    return ["sh", "-c", loop, "sh", *command]


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    cfsctl = program("cfsctl")
    with scratch_directory("start") as scratch:
        repository = os.path.join(scratch, "repository")
        ours = [sys.executable, "-m", "cfstools", "--repo", repository]
        theirs = [cfsctl, "--insecure", "--repo", repository]
        quietly(*ours, "init")
        quietly(*ours, "pull", _image(os.path.join(scratch, "layout")), "small")
        listing = Contender("cfsctl oci images", lambda: _repeated(*theirs, "oci", "images"))
        floor = Contender("python", lambda: _repeated(sys.executable, "-c", "pass"))
        rows: list[Row] = []
        for arguments in (
            ["--version"],
            ["images"],
            ["ls", "small"],
            ["cat", "small", "/usr/file"],
        ):
            command = _repeated(*ours, *arguments)
            rows += compare(
                SUBJECT,
                f"cfs {arguments[0]}",
                Contender("cfs", lambda command=command: command),  # type: ignore[misc]
                listing,
                settings,
                floor=floor,
            )
    return rows
