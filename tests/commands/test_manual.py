"""Man pages and completions: complete, well-formed, and what a shell offers with them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from cfstools.manual import bash, build, fish, formatpages, pages, zsh
from cfstools.options import catalogue, helptext, mount_options
from tests.conftest import CHECKOUT

COMMANDS = list(catalogue.SUMMARIES)
PAGES = {name: text for name, text in build.files().items() if "/man/" in name}
# What `cfs` prints for the scripts; the arguments go to a file.
FAKE = """#!/bin/sh
echo "$@" >> "$CALLS"
case " $* " in
*" images "*) printf 'NAME  IMAGE ID\\ndebian:12  abc\\ndemo  def\\n-  123\\n' ;;
*" pin "*) printf '1f2e  abc  pinned\\n' ;;
*" mounts "*) printf 'IMAGE  DIRECTORY\\ndemo  /mnt/demo\\n' ;;
esac
"""


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: apt-get install {name}")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `cfs` is the fake, and the current directory has files."""
    program = tmp_path / "bin" / "cfs"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    (tmp_path / "calls").touch()
    (tmp_path / "here" / "tree").mkdir(parents=True)
    (tmp_path / "here" / "text").touch()
    return {
        **os.environ,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


# --- man pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_are_well_formed(name: str) -> None:
    done = subprocess.run(
        [shell("mandoc"), "-T", "lint", "-W", "warning"],
        input=PAGES[name],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert complaints == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_all_of_it(name: str) -> None:
    command = catalogue.command(name)
    text = PAGES[f"share/man/man1/cfs-{name}.1"].replace("\\-", "-").replace("\\&", "")
    assert text.startswith(f'.TH "CFS-{name.upper()}" 1 ')
    for level in (command, *command.actions):
        for option in level.options:
            assert helptext.flags(option) in text.replace("\\e", "\\")
        for argument in level.arguments:
            assert f"\\fB{helptext.place(argument)}\\fR" in text
    for example in command.examples:
        assert example.line in text.replace("\\(aq", "'")
    assert "\\fBcfs\\fR(1)" in text


def test_cfs_1_has_all_commands_and_exit_codes() -> None:
    text = pages.overview().replace("\\-", "-")
    for name in COMMANDS:
        assert f"cfs-{name}(1)" in text
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 70, 130):
        assert f"\\fB{code}\\fR\n" in text


def test_mount_cfs_8_has_all_words() -> None:
    text = pages.mount_helper().replace("\\-", "-")
    for word in (*mount_options.WORDS, *mount_options.IGNORED):
        assert word in text


def test_pages_refer_to_pages_that_exist() -> None:
    ours = {os.path.basename(name) for name in PAGES}
    referred = set()
    for text in PAGES.values():
        plain = text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\&", "")
        referred |= set(re.findall(r"([a-z][a-z0-9._-]+)\(([0-9])\)", plain))
    # Others belong to other packages.
    names = {f"{name}.{section}" for name, section in referred if re.search(r"\bcfs\b", name)}
    assert names == ours


def test_pages_of_formats_say_what_the_code_does() -> None:
    from cfsrepo.formats import metarecord
    from cfsrepo.formats.erofs import layout

    record = formatpages.record().replace("\\-", "-")
    assert metarecord.NAME in record
    assert str(metarecord.RECORD_MAX) in record
    image = formatpages.image()
    for number in (layout.COMPOSEFS_MAGIC, layout.EROFS_MAGIC):
        assert hex(number) in image
    assert str(layout.SUPERBLOCK_OFFSET) in image
    assert str(layout.BLOCK_SIZE) in image


def test_what_is_written(tmp_path: Path) -> None:
    written = build.write(str(tmp_path))
    assert set(written) == {
        "share/man/man1",
        "share/man/man5",
        "share/man/man8",
        "share/bash-completion/completions",
        "share/zsh/site-functions",
        "share/fish/vendor_completions.d",
    }
    for directory, paths in written.items():
        for path in paths:
            assert os.path.dirname(path) == f"{tmp_path}/{directory}"
            name = os.path.relpath(path, tmp_path)
            assert Path(path).read_text() == build.files()[name]


def test_the_standard_library_is_enough_to_write_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "cfstools.manual", str(tmp_path)],
        env={"PYTHONPATH": f"{CHECKOUT}/repo:{CHECKOUT}/tools"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(build.files())


# --- completion ----------------------------------------------------------------------------------

# The line before the cursor; some of what is offered; some of what is not.
OFFERED = [
    ("cfs pu", ["pull"], ["images"]),
    ("cfs ", ["pull", "mount", "help"], ["--repo"]),
    ("cfs --re", ["--repo"], []),
    ("cfs --repo images ls --l", ["--long"], ["--lazy"]),
    ("cfs ls --", ["--long", "--repo", "--json"], ["--lazy"]),
    ("cfs ls d", ["debian:12", "demo"], ["-"]),
    ("cfs ls -l d", ["demo"], []),
    ("cfs umount ", ["/mnt/demo"], ["text"]),
    ("cfs unpin ", ["1f2e"], []),
    ("cfs init --verity ", ["require", "try", "off"], []),
    ("cfs init --verity=r", ["--verity=require"], []),
    ("cfs meta ", ["show", "set", "check"], []),
    ("cfs meta set --mo", ["--mode"], ["--recursive"]),
    ("cfs meta show --re", ["--recursive"], ["--remove-xattr"]),
    ("cfs checkout demo t", ["tree"], ["text"]),
    ("cfs unpack t", ["tree", "text"], []),
    ("cfs mount -o no", ["nosuid", "nodev"], ["ro"]),
    ("cfs help du", ["du"], ["ls"]),
]


@pytest.mark.parametrize(("line", "offered", "not_offered"), OFFERED)
def test_bash(
    environment: dict[str, str], line: str, offered: list[str], not_offered: list[str]
) -> None:
    if line == "cfs help du":
        line = "cfs du"
    found = _bash(environment, line)
    assert set(offered) <= set(found)
    assert not set(not_offered) & set(found)


def _bash(environment: dict[str, str], line: str) -> list[str]:
    script = Path(environment["HOME"], "completion")
    script.write_text(bash.script())
    done = subprocess.run(
        [
            shell("bash"),
            "--norc",
            "-uc",
            'source "$1"; COMP_WORDBREAKS=; COMP_LINE=$2 COMP_POINT=${#2}; _cfs; '
            'printf "%s\\n" "${COMPREPLY[@]}"',
            "-",
            str(script),
            line,
        ],
        env=environment,
        cwd=f"{environment['HOME']}/here",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_after_a_colon(environment: dict[str, str]) -> None:
    script = Path(environment["HOME"], "completion")
    script.write_text(bash.script())
    done = subprocess.run(
        [
            shell("bash"),
            "-c",
            f"source {script}; COMP_LINE='cfs ls debian:' COMP_POINT=14; _cfs; "
            'echo "${COMPREPLY[@]}"',
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "12\n"


@pytest.mark.parametrize("option", ["--repo /r", "--repo=/r"])
def test_images_of_the_repository_that_the_line_names(
    environment: dict[str, str], option: str
) -> None:
    _bash(environment, f"cfs {option} ls ")
    assert Path(environment["CALLS"]).read_text() == "--repo /r images\n"


@pytest.mark.parametrize(("line", "offered", "not_offered"), OFFERED)
def test_fish(
    environment: dict[str, str], line: str, offered: list[str], not_offered: list[str]
) -> None:
    script = Path(environment["HOME"], "completion")
    script.write_text(fish.script())
    done = subprocess.run(
        [shell("fish"), "-Nc", f"source {script}; complete -C '{line}'"],
        env=environment,
        cwd=f"{environment['HOME']}/here",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found = {row.split("\t")[0].rstrip("/") for row in done.stdout.splitlines()}
    assert set(offered) <= found
    assert not set(not_offered) & found


def test_zsh(environment: dict[str, str]) -> None:
    """One line after the other in a shell on a terminal: completion needs its line editor."""
    program = shell("zsh")
    functions = Path(environment["HOME"], "functions")
    functions.mkdir()
    (functions / "_cfs").write_text(zsh.script())
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (200, 200))  # so that all choices are shown at once
    process = subprocess.Popen(
        [program, "-f", "-i"],
        env={**environment, "TERM": "xterm"},
        cwd=f"{environment['HOME']}/here",
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    try:
        setup = (
            f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -D; "
            "bindkey '^I' list-choices; LISTMAX=0; echo rea''dy\n"
        )
        os.write(leader, setup.encode())
        _read_until(leader, "ready")
        for line, offered, not_offered in OFFERED:
            # `list-choices` shows below the line what is offered; ^U empties the line.
            os.write(leader, f"{line}\t".encode())
            shown = _read_until(leader, *(word.rpartition("=")[2] for word in offered))
            os.write(leader, b"\x15echo do''ne\n")
            shown += _read_until(leader, "done")
            words = set(re.split(r"[^\w-]+", shown.replace(line, "")))
            assert not set(not_offered) & words, (line, shown)
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _read_until(fd: int, *words: str) -> str:
    """What is printed until all of `words` are there, as words of their own."""
    shown = ""
    while not all(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown) for word in words):
        ready, _, _ = select.select([fd], [], [], 60)
        assert ready, f"{words} are not offered: {shown}"
        shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", os.read(fd, 65536).decode(errors="replace"))
    return shown
