"""Where man pages and completions go below a prefix, and writing them there."""

from __future__ import annotations

import os

from cfstools.manual import bash, fish, formatpages, pages, zsh
from cfstools.options import catalogue


def files() -> dict[str, str]:
    """All files: path below the prefix -> content."""
    found = {
        "share/bash-completion/completions/cfs": bash.script(),
        "share/zsh/site-functions/_cfs": zsh.script(),
        "share/fish/vendor_completions.d/cfs.fish": fish.script(),
        "share/man/man1/cfs.1": pages.overview(),
        "share/man/man8/mount.cfs.8": pages.mount_helper(),
        "share/man/man5/cfs-image.5": formatpages.image(),
        "share/man/man5/user.cfs.meta.5": formatpages.record(),
    }
    for name in catalogue.SUMMARIES:
        found[f"share/man/man1/cfs-{name}.1"] = pages.of_command(catalogue.command(name))
    return found


def write(directory: str) -> dict[str, list[str]]:
    """Write all files below `directory`; returns them by the directory they are installed in.

    The paths are `directory` and what is below it: what setuptools takes as `data_files`.
    """
    written: dict[str, list[str]] = {}
    for name, content in sorted(files().items()):
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        written.setdefault(os.path.dirname(name), []).append(path)
    return written
