"""Completion for fish."""

from __future__ import annotations

import shlex

from cfstools.manual.completion import levels, mount_words, options
from cfstools.options import Argument, Option, catalogue
from cfstools.options.common import GLOBAL

_HEAD = r"""# Completion of cfs(1) for fish; made from the table of commands.

function __cfs_words
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word $__cfs_valued; and set skip 1
        else
            echo $word
        end
    end
end

function __cfs_is
    set -l words (__cfs_words)
    set -l asked (count $argv)
    if test $asked = 0
        test (count $words) = 0
    else
        test (count $words) -ge $asked; and test "$words[1..$asked]" = "$argv"
    end
end

function __cfs_ask
    set -l words (commandline -opc)
    set -l repository
    for at in (seq (count $words))
        string match -q -- '--repo=*' $words[$at]; and set repository $words[$at]
        test $words[$at] = --repo; and set repository --repo=$words[(math $at + 1)]
    end
    cfs $repository $argv[1] 2>/dev/null | awk $argv[2]
end

function __cfs_images; __cfs_ask images 'NR > 1 && $1 != "-" { print $1 }'; end
function __cfs_pins; __cfs_ask pin '{ print $1 }'; end
function __cfs_mounts; __cfs_ask mounts 'NR > 1 { print $NF }'; end

"""


_KINDS = {
    "file": "-F",
    "directory": "-a '(__fish_complete_directories)'",
    "image": "-a '(__cfs_images)'",
    "pin": "-a '(__cfs_pins)'",
    "mount": "-a '(__cfs_mounts)'",
    "command": f"-a {shlex.quote(' '.join(catalogue.SUMMARIES))}",
    "none": "",
}


def script() -> str:
    """The script for fish."""
    valued = {
        flag
        for _, command in levels()
        for option in options(command)
        if option.value
        for flag in option.flags
    }
    lines = [_HEAD, f"set -g __cfs_valued {' '.join(sorted(valued))}", "complete -c cfs -f"]
    for name, summary in [*catalogue.SUMMARIES.items(), ("help", "print help")]:
        lines.append(f"complete -c cfs -n __cfs_is -a {name} -d {_fish_text(summary)}")
    lines += [f"complete -c cfs{_fish_option(option)}" for option in GLOBAL]
    lines.append("complete -c cfs -n '__cfs_is help' " + _KINDS["command"])
    for key, command in levels():
        head = f"complete -c cfs -n {shlex.quote(f'__cfs_is {key}')}"
        for action in command.actions:
            summary = _fish_text(action.summary)
            lines.append(f"{head} -a {action.name} -d {summary}")
        lines += [f"{head}{_fish_option(option)}" for option in command.options]
        kinds = dict.fromkeys(_fish_kind(argument) for argument in command.arguments)
        if command.foreign:
            kinds = {"-F": None}
        lines += [f"{head} {kind}" for kind in kinds if kind]
    return "\n".join([*lines, ""])


def _fish_option(option: Option) -> str:
    words = ""
    for flag in option.flags:
        words += f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
    if option.value:
        words += f" -r {_fish_kind(option)}".rstrip()
    return f"{words} -d {_fish_text(option.help)}"


def _fish_kind(entry: Option | Argument) -> str:
    if entry.choices:
        return f"-a {shlex.quote(' '.join(entry.choices))}"
    if entry.completes == "mount-option":
        return f"-a {shlex.quote(' '.join(mount_words()))}"
    return _KINDS[entry.completes or "none"]


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
