"""Completion for bash."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from cfstools.manual.completion import kind, levels, mount_words, options
from cfstools.options import Command, catalogue
from cfstools.options.common import GLOBAL

_HEAD = r"""# Completion of cfs(1) for bash; made from the table of commands.

_cfs_offer() { # KIND WORD: fill COMPREPLY with what KIND has that begins with WORD
    local offered= repo=()
    [[ -n $_cfs_repo ]] && repo=(--repo "$_cfs_repo")
    case $1 in
    file | directory)
        mapfile -t COMPREPLY < <(compgen -A "$1" -- "$2")
        compopt -o filenames 2>/dev/null
        return
        ;;
    image) offered=$(_cfs_ask 'NR > 1 && $1 != "-" { print $1 }' "${repo[@]}" images) ;;
    pin) offered=$(_cfs_ask '{ print $1 }' "${repo[@]}" pin) ;;
    mount) offered=$(_cfs_ask 'NR > 1 { print $NF }' mounts) ;;
    command) offered=$_cfs_commands ;;
    mount-option) offered=$_cfs_mount_options ;;
    words:*) offered=${1#words:} ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$2")
}

_cfs_ask() { # AWK ARGUMENT...: what cfs prints
    cfs "${@:2}" 2>/dev/null | awk "$1"
}

_cfs_read() { # WORD...: find the command in the words before the cursor
    local word previous= ended=
    for word; do
        [[ $previous == --repo ]] && _cfs_repo=$word
        [[ $word == --repo=* ]] && _cfs_repo=${word#--repo=}
        if [[ -n $previous ]]; then
            previous=
        elif [[ -z $ended && $word == -- ]]; then
            ended=1
        elif [[ -z $ended && $word == -?* ]]; then
            [[ $word != *=* && -n $(_cfs_value "$key" "$word") ]] && previous=$word
        elif [[ -z $key ]]; then
            key=$word
        elif [[ " $_cfs_with_actions " == *" $key "* ]]; then
            key="$key $word"
        else
            ((at += 1))
        fi
    done
    valued=$previous options_ended=$ended
}

_cfs() {
    local line=${COMP_LINE:0:COMP_POINT} cur key= at=0 valued= options_ended= _cfs_repo=
    local words=() places=()
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    cur=${words[-1]}
    _cfs_read "${words[@]:1:${#words[@]}-2}"
    COMPREPLY=()
    if [[ -n $valued ]]; then
        _cfs_offer "$(_cfs_value "$key" "$valued")" "$cur"
    elif [[ -z $options_ended && $cur == --*=* ]]; then
        _cfs_offer "$(_cfs_value "$key" "${cur%%=*}")" "${cur#*=}"
        COMPREPLY=("${COMPREPLY[@]/#/${cur%%=*}=}")
    elif [[ -z $options_ended && $cur == -* ]]; then
        _cfs_offer "words:$(_cfs_flags "$key")" "$cur"
    elif [[ -z $key ]]; then
        _cfs_offer command "$cur"
    else
        mapfile -t places < <(_cfs_places "$key")
        # The last argument may be repeated.
        ((at >= ${#places[@]})) && [[ ${places[-1]-} == *+ ]] && at=$((${#places[@]} - 1))
        _cfs_offer "${places[at]%+}" "$cur"
    fi
    # readline takes ':' and '=' for the beginning of a word.
    if [[ $cur == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]]; then
        line=${cur%"${cur##*[:=]}"}
        COMPREPLY=("${COMPREPLY[@]#"$line"}")
    fi
}
"""


def script() -> str:
    """The script for bash."""
    names = " ".join([*catalogue.SUMMARIES, "help"])
    words = " ".join(mount_words())
    lines = [
        _HEAD,
        f"_cfs_commands={shlex.quote(names)}",
        f"_cfs_mount_options={shlex.quote(words)}",
        f"_cfs_with_actions={shlex.quote(' '.join(_with_actions()))}",
        "",
        "_cfs_flags() { # COMMAND: its options",
        *_bash_case((key, " ".join(_flags(command))) for key, command in levels()),
        "",
        "_cfs_places() { # COMMAND: what completes each argument; + for the last one repeated",
        *_bash_case((key, "\n".join(_places(command))) for key, command in levels()),
        "",
        "_cfs_value() { # COMMAND OPTION: what completes the value of the option",
        "    case $1:$2 in",
    ]
    for key, command in levels():
        for option in command.options:
            if option.value:
                pattern = "|".join(shlex.quote(f"{key}:{flag}") for flag in option.flags)
                lines.append(f"    {pattern}) echo {shlex.quote(kind(option))} ;;")
    for option in GLOBAL:
        if option.value:
            pattern = "|".join(f"*:{flag}" for flag in option.flags)
            lines.append(f"    {pattern}) echo {shlex.quote(kind(option))} ;;")
    return "\n".join([*lines, "    esac", "}", "", "complete -F _cfs cfs", ""])


def _bash_case(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = ["    case $1 in"]
    lines += [f"    {shlex.quote(key)}) echo {shlex.quote(text)} ;;" for key, text in rows]
    top = " ".join(flag for option in GLOBAL for flag in option.flags)
    lines.append(f"    '') echo {shlex.quote(top)} ;;")
    return [*lines, "    esac", "}"]


def _flags(command: Command) -> list[str]:
    return [flag for option in options(command) for flag in option.flags]


def _places(command: Command) -> list[str]:
    if command.foreign:
        return ["file+"]
    if command.actions:
        return [f"words:{' '.join(action.name for action in command.actions)}"]
    return [
        kind(argument) + ("+" if argument.nargs in ("*", "+") else "")
        for argument in command.arguments
    ]


def _with_actions() -> list[str]:
    return [name for name in catalogue.SUMMARIES if catalogue.command(name).actions]
