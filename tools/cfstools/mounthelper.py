"""`mount.cfs`: what mount(8) and fstab call for the type `cfs`; installed as /sbin/mount.cfs.

    IMAGE  DIR  cfs  repo=/path/to/repository,nosuid,nodev  0 0

The mount is writable with `upperdir=` and `workdir=`, or with `memory`, unless `ro` is given; `rw`
says nothing here, since mount(8) adds it to everything that has no `ro`.

mount(8) calls `mount.cfs IMAGE DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` and wants its own
exit codes: 1 for wrong usage, 32 for a mount that failed.
"""

from __future__ import annotations

import getopt
import sys

from cfsrepo import errors
from cfstools import cli
from cfstools.options.mount_options import split

_EXIT_USAGE = 1
_EXIT_FAILED = 32


def main(argv: list[str] | None = None) -> int:
    """Run `cfs mount` as mount(8) asks for it."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        # IMAGE and DIR come first, options after them.
        flags, words = getopt.gnu_getopt(argv, "sfnvN:t:o:")
    except getopt.GetoptError as error:
        return _usage(str(error))
    if len(words) != 2:
        return _usage("usage: mount.cfs IMAGE DIR [-o OPTIONS]")
    given = dict(flags)
    options = [value for flag, value in flags if flag == "-o"]
    if not any(option.startswith("repo=") for option in split(options)):
        return _usage("no repository: give it as the option repo=DIRECTORY")
    if "-f" in given:
        return errors.EXIT_OK  # mount --fake: everything but the mount
    command = ["mount", *(["--verbose"] if "-v" in given else [])]
    for word in split(options):
        if word != "rw":
            command += ["-o", word.replace(",", "\\,")]
    code = cli.main([*command, "--", *words])
    if code == errors.EXIT_USAGE:
        return _EXIT_USAGE
    return code and _EXIT_FAILED


def _usage(text: str) -> int:
    print(f"mount.cfs: {text}", file=sys.stderr)
    return _EXIT_USAGE
