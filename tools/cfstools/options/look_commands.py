"""Looking into images without mounting them."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import IMAGE, JSON, OBJECTS

COMMANDS = (
    Command(
        "ls",
        arguments=(
            IMAGE,
            Argument("path", "PATH", "what to list (default: /)", nargs="?", default="/"),
        ),
        options=(
            OBJECTS,
            Option(("-l", "--long"), "mode, links, owner, size and time (UTC) too"),
            Option(("-d", "--directory"), "list a directory itself"),
            Option(("-R", "--recursive"), "list everything below, as paths"),
            JSON,
        ),
        examples=(Example("cfs ls -l debian /etc", "list a directory of the image"),),
    ),
    Command(
        "cat",
        arguments=(
            IMAGE,
            Argument("path", "PATH", "a regular file; symlinks are followed", nargs="+"),
        ),
        options=(OBJECTS,),
        examples=(Example("cfs cat debian /etc/passwd", "print a file of the image"),),
    ),
    Command(
        "diff",
        arguments=(
            Argument(
                "first", "A", "an image, or a directory (with a '/' in it)", "", None, (), "image"
            ),
            Argument("second", "B", "another one", completes="image"),
            Argument("path", "PATH", "only from here on (default: /)", nargs="?", default="/"),
        ),
        options=(JSON,),
        description="With -q nothing is printed; the exit code is 0 or 1.",
        examples=(
            Example("cfs diff debian edited", "compare two images"),
            Example("cfs diff debian ./tree /etc", "compare a part of an image with a directory"),
        ),
    ),
)
