"""What the completions of all shells have in common.

What only the running program knows (names of images, pins, mounts) the scripts ask `cfs` for, in
the repository that the line names.
"""

from __future__ import annotations

from cfstools.options import Argument, Command, Option, catalogue, mount_options
from cfstools.options.common import GLOBAL


def levels() -> list[tuple[str, Command]]:
    """All commands and actions, by the words that call them."""
    found = []
    for name in catalogue.SUMMARIES:
        command = catalogue.command(name)
        found.append((name, command))
        found += [(f"{name} {action.name}", action) for action in command.actions]
    return found


def options(command: Command) -> tuple[Option, ...]:
    return () if command.foreign else (*command.options, *GLOBAL)


def kind(entry: Option | Argument) -> str:
    """What completes an argument, or the value of an option."""
    return f"words:{' '.join(entry.choices)}" if entry.choices else entry.completes or "none"


def mount_words() -> list[str]:
    return [f"{word}=" if row.value else word for word, row in mount_options.WORDS.items()]
