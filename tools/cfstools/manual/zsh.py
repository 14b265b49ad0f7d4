"""Completion for zsh."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from cfstools.options import Argument, Command, Option, catalogue, mount_options
from cfstools.options.common import GLOBAL

_HEAD = r"""#compdef cfs
# Completion of cfs(1) for zsh; made from the table of commands.

_cfs_repository() {
    reply=()
    local -i at=${words[(I)--repo]}
    ((at)) && reply=(--repo ${(Q)words[at + 1]})
    local joined=${(M)words:#--repo=*}
    [[ -n $joined ]] && reply=(--repo ${(Q)${joined#--repo=}})
}

_cfs_ask() { # TAG COMMAND AWK: offer what the program prints
    local -a reply found
    _cfs_repository
    found=(${(f)"$(_call_program $1 cfs ${(q)reply} $2 2>/dev/null | awk $3)"})
    _wanted $1 expl $1 compadd -a found
}

_cfs_images() { _cfs_ask image images 'NR > 1 && $1 != "-" { print $1 }' }
_cfs_pins() { _cfs_ask pin pin '{ print $1 }' }
_cfs_mounts() { _cfs_ask mount mounts 'NR > 1 { print $NF }' }

"""


_KINDS = {
    "file": "_files",
    "directory": "_files -/",
    "image": "_cfs_images",
    "pin": "_cfs_pins",
    "mount": "_cfs_mounts",
    "command": "_cfs_commands",
    "mount-option": "_cfs_mount_options",
    "none": " ",
}


def script() -> str:
    """The script for zsh."""
    lines = [_HEAD, "_cfs_commands() {", "    local -a commands=("]
    for name, summary in [*catalogue.SUMMARIES.items(), ("help", "print help")]:
        lines.append(f"        {shlex.quote(f'{name}:{summary}')}")
    lines += ["    )", "    _describe command commands", "}", "", "_cfs_mount_options() {"]
    lines += [f"    _values -s , option {' '.join(map(shlex.quote, _zsh_mount_words()))}", "}", ""]
    lines += [
        "_cfs() {",
        "    local curcontext=$curcontext state line expl",
        "    local -A opt_args",
    ]
    lines += _zsh_arguments(
        "    ", [*_zsh_options(GLOBAL), "1:command:_cfs_commands", "*:: :->rest"]
    )
    lines += ["    [[ $state == rest ]] || return", "    case $words[1] in"]
    for name in catalogue.SUMMARIES:
        command = catalogue.command(name)
        lines.append(f"    {name})")
        if command.actions:
            lines += _zsh_actions(command)
        else:
            lines += _zsh_arguments("        ", _zsh_specs(command))
        lines.append("        ;;")
    lines += [
        "    help) _arguments '1:command:_cfs_commands' ;;",
        "    esac",
        "}",
        "",
        '_cfs "$@"',
        "",
    ]
    return "\n".join(lines)


def _zsh_actions(command: Command) -> list[str]:
    names = " ".join(action.name for action in command.actions)
    head = [*_zsh_options(GLOBAL), f"1:action:({names})", "*:: :->action"]
    lines = [*_zsh_arguments("        ", head), "        case $words[1] in"]
    for action in command.actions:
        lines.append(f"        {action.name})")
        lines += [*_zsh_arguments("            ", _zsh_specs(action)), "            ;;"]
    return [*lines, "        esac"]


def _zsh_arguments(indent: str, specs: Iterable[str]) -> list[str]:
    lines = [f"{indent}_arguments -C -s -S \\"]
    lines += [f"{indent}    {shlex.quote(spec)} \\" for spec in specs]
    return [*lines[:-1], lines[-1].removesuffix(" \\")]


def _zsh_specs(command: Command) -> list[str]:
    if command.foreign:
        return ["*:file:_files"]
    specs = _zsh_options((*command.options, *GLOBAL))
    for number, argument in enumerate(command.arguments, 1):
        place = {"": f"{number}:", "?": f"{number}::", "*": "*:", "+": "*:"}[argument.nargs]
        specs.append(f"{place}{_zsh_text(argument.metavar)}:{_zsh_kind(argument)}")
    return specs


def _zsh_options(options: Iterable[Option]) -> list[str]:
    specs = []
    for option in options:
        others = "" if option.repeated else f"({' '.join(option.flags)})"
        for flag in option.flags:
            spec = f"{'*' if option.repeated else others}{flag}"
            if option.value:
                spec += "=" if flag.startswith("--") else "+"
            spec += f"[{_zsh_text(option.help)}]"
            if option.value:
                spec += f":{_zsh_text(option.value)}:{_zsh_kind(option)}"
            specs.append(spec)
    return specs


def _zsh_kind(entry: Option | Argument) -> str:
    return f"({' '.join(entry.choices)})" if entry.choices else _KINDS[entry.completes or "none"]


def _zsh_text(text: str) -> str:
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return text


def _zsh_mount_words() -> list[str]:
    words = []
    for word, row in mount_options.WORDS.items():
        spec = f"{word}[{_zsh_text(row.help)}]"
        if row.value:
            choices = f"({' '.join(row.choices)})" if row.choices else " "
            spec += f":{_zsh_text(row.value)}:{choices}"
        words.append(spec)
    return words
