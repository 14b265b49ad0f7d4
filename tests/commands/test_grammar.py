"""The grammar of the command line: what each word means by its place, and what is refused."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cfsrepo.errors import UsageError
from cfstools import cli
from cfstools.options import Arguments, catalogue, parser
from cfstools.options.common import GLOBAL
from tests.conftest import CHECKOUT

COMMANDS = list(catalogue.SUMMARIES)


def parsed(*argv: str) -> Arguments:
    line = parser.split(argv)
    return parser.parse(catalogue.command(line.command), line)


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_declared_and_has_a_module(name: str) -> None:
    command = catalogue.command(name)
    module = importlib.import_module(catalogue.module_name(name))
    assert callable(module.main if command.foreign else module.run)
    assert command.examples
    assert command.foreign == (name in catalogue.PROGRAMS)
    for example in command.examples:
        assert f"cfs {name}" in example.line or f" {name}" in example.line


@pytest.mark.parametrize("name", COMMANDS)
def test_no_flag_and_no_attribute_has_two_meanings(name: str) -> None:
    command = catalogue.command(name)
    for level in (command, *command.actions):
        flags = [flag for option in (*level.options, *GLOBAL) for flag in option.flags]
        assert len(flags) == len(set(flags))
        attributes = {option.attribute for option in level.options}
        assert not attributes & {option.attribute for option in GLOBAL}
        assert not attributes & {argument.name for argument in level.arguments}
        for group in level.exclusive:
            assert attributes.issuperset(group)
        assert sum(argument.nargs in ("*", "+") for argument in level.arguments) <= 1


def test_tables_have_what_the_catalogue_lists() -> None:
    for group in catalogue.GROUPS:
        table = importlib.import_module(f"cfstools.options.{group.table}")
        assert sorted(command.name for command in table.COMMANDS) == sorted(group.summaries)


# --- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--repo", "images", "ls", "-l", "x", "/etc"],
        ["--repo=images", "ls", "x", "-l", "/etc"],
        ["ls", "--repo", "images", "-l", "x", "/etc"],
        ["ls", "x", "--repo", "images", "/etc", "--long"],
        ["ls", "x", "/etc", "-l", "--repo=images"],
        ["--repo", "other", "ls", "x", "/etc", "-l", "--repo=images"],
        ["ls", "--repo=images", "-l", "--", "x", "/etc"],
    ],
)
def test_options_of_all_commands_stand_anywhere(argv: list[str]) -> None:
    args = parsed(*argv)
    assert (args.command, args.repo, args.image, args.path) == ("ls", "images", "x", "/etc")
    assert args.long
    assert not args.recursive


def test_the_names_of_commands_are_words_elsewhere() -> None:
    assert parsed("--repo", "pin", "images").repo == "pin"
    assert parsed("ls", "images", "mount").path == "mount"
    assert parsed("tag", "--", "gc", "-q").name == "-q"
    assert parser.split(["--repo", "mkcomposefs", "images"]).command == "images"


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["ls", "x"], {"path": "/", "json": False, "objects": None, "verbose": 0}),
        (["-v", "ls", "-vv", "x"], {"verbose": 3}),
        (["images", "-q"], {"quiet": True}),
        (["-q", "images"], {"quiet": True}),
        (["untag", "a", "b"], {"names": ["a", "b"]}),
        (["fsck"], {"images": [], "sources": []}),
        (["fsck", "--from", "a", "--repair", "--from=b"], {"sources": ["a", "b"]}),
        (["unpack", "a", "b", "c"], {"layers": ["a", "b"], "directory": "c"}),
        (["checkout", "a", "b"], {"image": "a", "directory": "b", "paths": []}),
        (["gc", "-n"], {"dry_run": True}),
        (["ls", "-lRd", "x"], {"long": True, "recursive": True, "directory": True}),
        (["mount", "a", "b"], {"require_verity": None, "options": []}),
        (["mount", "a", "b", "--no-require-verity"], {"require_verity": False}),
        (["mount", "a", "b", "-oro", "-o", "uid=1"], {"options": ["ro", "uid=1"]}),
        (["meta", "set", "--mode", "4755", "f"], {"action": "set", "mode": "4755"}),
        (["meta", "--repo=r", "show", "f", "g"], {"files": ["f", "g"], "repo": "r"}),
        (["import-dump", "-", "name"], {"file": "-"}),
        (["pin"], {"image": None, "reason": ""}),
    ],
)
def test_values(argv: list[str], values: dict[str, object]) -> None:
    args = parsed(*argv)
    assert {name: getattr(args, name) for name in values} == values


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["-l", "ls", "x"], "unknown option: -l", "options of a command follow its name"),
        (["ls", "--rekursive", "x"], "ls: unknown option: --rekursive", "mean --recursive?"),
        (["ls", "--repo"], "ls: --repo needs a value", ""),
        (["ls", "--long=yes", "x"], "ls: --long takes no value", ""),
        (["mount", "--re", "x", "d"], "--re could be any of --read-only, --repo, ", ""),
        (["ls"], "ls: IMAGE is missing", "cfs ls --help"),
        (["unpack", "layer"], "unpack: DIR is missing", ""),
        (["ls", "a", "b", "c"], "ls: c: one word too many", ""),
        (["init", "--verity=requires"], "--verity: no such choice: requires", "mean require?"),
        (["verity", "off"], "verity: status|enable: no such choice: off", "status, enable"),
        (
            ["fsck", "--deep", "--metadata-only"],
            "fsck: --metadata-only and --deep exclude each",
            "",
        ),
        (["meta"], "meta: what to do? show, set, check", ""),
        (["meta", "shew"], "meta: unknown action: shew", "did you mean show?"),
        (["meta", "show", "--mode=1", "f"], "meta show: unknown option: --mode", ""),
    ],
)
def test_what_is_refused(argv: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parsed(*argv)
    assert message in str(raised.value)
    assert hint in (raised.value.hint or "")


# --- the whole command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "cfs: no command ('cfs help' lists the commands)\n"),
        (["imags"], "cfs: unknown command: imags (did you mean images?)\n"),
        (["help", "imags"], "cfs: unknown command: imags (did you mean images?)\n"),
        (
            ["--json", "images"],
            "cfs: unknown option: --json (the options of a command follow its name)\n",
        ),
        (["--repo"], "cfs: --repo needs a value\n"),
    ],
)
def test_a_wrong_line_is_one_line(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", name]) == 0
    text = capsys.readouterr().out
    command = catalogue.command(name)
    assert text.startswith(f"usage: cfs {name}")
    for level in (command, *command.actions):
        for option in level.options:
            assert all(flag in text for flag in option.flags)
        for argument in level.arguments:
            assert argument.metavar in text
    assert all(example.line in text for example in command.examples)
    if not command.foreign:
        assert cli.main([name, "--help"]) == 0
        assert capsys.readouterr().out == text
        assert cli.main(["-h", name]) == 0
        assert capsys.readouterr().out == text


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    text = capsys.readouterr().out
    for name, summary in catalogue.SUMMARIES.items():
        assert f"\n  {name} " in text
        assert summary.split()[0] in text
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == text


def test_help_of_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["meta", "set", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: cfs meta set [OPTION]... FILE...\n")


@pytest.mark.parametrize("argv", [["--version"], ["images", "--version"], ["--version", "images"]])
def test_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.startswith("cfs ")


# --- standard streams ----------------------------------------------------------------------------


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which `$CFS` is `cfs`."""
    paths = [CHECKOUT + below for below in ("", "/repo", "/tools")]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(paths),
        "CFS": f"{sys.executable} -m cfstools",
    }
    return subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("redirection", "code", "reason"),
    [
        (">&-", 6, "standard output: Bad file descriptor"),
        (">/dev/full", 6, "No space left on device"),
        ("<&-", 0, ""),
        (">&- <&- 2>&-", 6, ""),
    ],
)
def test_output_that_cannot_be_written(
    tmp_path: Path, redirection: str, code: int, reason: str
) -> None:
    repo = f"--repo {tmp_path}/repo"
    assert shell(f"$CFS {repo} init").returncode == 0
    done = shell(f"$CFS {repo} images {redirection}")
    assert done.returncode == code
    assert reason in done.stderr
    assert done.stderr.count("\n") == bool(reason)


def test_a_closed_output_does_not_matter_where_nothing_is_printed(tmp_path: Path) -> None:
    repo = f"--repo {tmp_path}/repo"
    assert shell(f"$CFS {repo} init").returncode == 0
    assert shell(f"$CFS {repo} pin >&-").returncode == 0
    assert "repo: is a repository" not in shell(f"$CFS {repo} fsck").stdout


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = shell("$CFS help | true")
    assert done.stderr == ""
