#!/usr/bin/env python3
"""Build pyfuse3 from the source that the package index has, with the edits beside this script.

usage: build.py [--stock] [--edits FILE] [--target DIRECTORY]

The source is downloaded by pip and must have the hash that the edits were made for. What is built
is installed into the environment of this interpreter, or into DIRECTORY (for $PYTHONPATH); with
--stock without the edits, to compare. Does nothing where that version is installed already.

The edits are commands of ed(1), so that they hold no line of the other project:

    # sdist: NAME.tar.gz        in the head: the file's name, its hash, what to call the result
    # sha256: HEX
    # version: VERSION
    = FILE                      the file that the commands below change
    Na                          insert the lines up to `.` after line N
    N[,M]c                      put the lines up to `.` in the place of lines N to M
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

EDITS = Path(__file__).with_name("stateless_open.edits")
_HEAD = re.compile(r"# (sdist|sha256|version): (\S+)")
_COMMAND = re.compile(r"([0-9]+)(?:,([0-9]+))?([ac])")


class BuildError(Exception):
    """What is not as the edits expect it."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines `first` to `last` (counted from 1; `last < first`: none) are replaced by `lines`."""

    first: int
    last: int
    lines: tuple[str, ...]


@dataclass(slots=True)
class Edits:
    """A file of edits."""

    head: dict[str, str] = field(default_factory=dict)
    """`sdist`, `sha256`, `version`."""
    files: dict[str, list[Edit]] = field(default_factory=dict)


def parse(text: str) -> Edits:
    """The edits in `text`. Raises `BuildError`."""
    edits = Edits()
    lines = iter(text.splitlines())
    current: list[Edit] | None = None
    for line in lines:
        if found := _HEAD.fullmatch(line):
            edits.head[found[1]] = found[2]
        elif line.startswith("= "):
            current = edits.files.setdefault(line[2:], [])
        elif found := _COMMAND.fullmatch(line):
            if current is None:
                raise BuildError(f"no file is named before {line!r}")
            first = int(found[1])
            last = int(found[2] or first)
            if found[3] == "a":
                first, last = last + 1, last
            if current and last >= current[-1].first:
                raise BuildError(f"not in front of the command before it: {line!r}")
            current.append(Edit(first, last, tuple(_body(lines))))
        elif line and not line.startswith("#"):
            raise BuildError(f"not understood: {line!r}")
    missing = {"sdist", "sha256", "version"} - edits.head.keys()
    if missing:
        raise BuildError(f"the head lacks {', '.join(sorted(missing))}")
    return edits


def _body(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line == ".":
            return
        yield line
    raise BuildError("the last command has no end")


def apply(edits: Edits, directory: Path) -> None:
    """Change the files below `directory`. Raises `BuildError`."""
    for name, commands in edits.files.items():
        path = directory / name
        lines = path.read_text(encoding="utf-8").split("\n")
        for edit in commands:
            if edit.last > len(lines):
                raise BuildError(f"{name} has {len(lines)} lines: no line {edit.last}")
            lines[edit.first - 1 : edit.last] = edit.lines
        path.write_text("\n".join(lines), encoding="utf-8")


def unpack(archive: Path, sha256: str, directory: Path) -> Path:
    """The source tree in `archive`, which must have this hash. Raises `BuildError`."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise BuildError(f"{archive.name}: has the sha256 {found}, not {sha256}")
    with tarfile.open(archive) as file:
        # Python before 3.11.4 (Debian 12) has no filters; what has this hash needs none.
        file.extraction_filter = getattr(tarfile, "data_filter", None)
        file.extractall(directory)  # noqa: S202
    return directory / archive.name.removesuffix(".tar.gz")


def build(edits: Edits, target: str | None, *, stock: bool) -> None:
    """Download, edit, build, install."""
    sdist = edits.head["sdist"]
    name, _, version = sdist.removesuffix(".tar.gz").rpartition("-")
    wanted = version if stock else edits.head["version"]
    with tempfile.TemporaryDirectory(prefix="cfsfuse-pyfuse3-") as temporary:
        work = Path(temporary)
        _pip("download", "--no-deps", "--no-binary", name, "-d", temporary, f"{name}=={version}")
        source = unpack(work / sdist, edits.head["sha256"], work)
        (source / "src" / "pyfuse3" / "__init__.c").unlink(missing_ok=True)  # made of older source
        if not stock:
            apply(edits, source)
        environment = {"SETUPTOOLS_SCM_PRETEND_VERSION": wanted}
        _pip("wheel", "--no-deps", "-w", temporary, str(source), environment=environment)
        (wheel,) = work.glob("*.whl")
        place = ["--target", target, "--upgrade"] if target else ["--force-reinstall"]
        _pip("install", "--no-deps", *place, str(wheel))
        if not target:
            _pip("install", str(wheel))  # what it requires


def _pip(*arguments: str, environment: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"pip {arguments[0]} failed:\n{done.stdout.strip()}")


def _installed(target: str | None, name: str, version: str) -> bool:
    found = importlib.metadata.distributions(name=name, path=[target] if target else sys.path)
    return any(distribution.version == version for distribution in found)


def main() -> int:
    """Build and install what is asked for."""
    parser = argparse.ArgumentParser(description="Build pyfuse3 with the edits of this project.")
    parser.add_argument("--stock", action="store_true", help="without the edits")
    parser.add_argument("--edits", type=Path, default=EDITS, help="default: %(default)s")
    parser.add_argument("--target", metavar="DIRECTORY", help="install there")
    args = parser.parse_args()
    try:
        edits = parse(args.edits.read_text(encoding="utf-8"))
        name, _, version = edits.head["sdist"].removesuffix(".tar.gz").rpartition("-")
        wanted = version if args.stock else edits.head["version"]
        if not _installed(args.target, name, wanted):
            print(f"building {name} {wanted}", file=sys.stderr)
            build(edits, args.target, stock=args.stock)
    except (BuildError, OSError) as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
