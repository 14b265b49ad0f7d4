"""`--json`: each command prints one value, and it is what `json_output` declares."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cfstools import cli
from cfstools.options import catalogue, json_output
from tests.conftest import User
from tests.fuse.fuse_helpers import Sample, sample
from tests.oci.oci_builder import LayoutBuilder, base, directory, member

SCHEMAS = json_output.SCHEMAS
Output = Callable[..., Any]


@pytest.fixture
def output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Output:
    """Runs a command with `--json`; returns what it printed, which its schema allows."""

    def run(schema: str, *arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        argv = ["--repo", str(tmp_path / "repo"), *schema.split(), "--json", *arguments]
        found = cli.main(argv)
        said = capsys.readouterr()
        assert found == code, said.err
        value = json.loads(said.out)
        jsonschema.validate(value, SCHEMAS[schema])
        return value

    return run


@pytest.fixture
def filled(output: Output, tmp_path: Path) -> Path:
    """A repository with the image one:1, and what is at hand for others."""
    layout = LayoutBuilder(str(tmp_path / "layout"))
    layout.image(base(directory(b"d"), member(b"d/a", b"a" * 5000), member(b"b", b"b")), ref="one")
    layout.image(base(member(b"c", b"c" * 70_000), member(b"b", b"b")), ref="two")
    output("init")
    output("pull", f"oci:{tmp_path}/layout:one", "one:1")
    output("pull", f"oci:{tmp_path}/layout:two", "two:1")
    return tmp_path


def levels() -> list[str]:
    """All commands and actions that have `--json`."""
    found = []
    for name in catalogue.SUMMARIES:
        command = catalogue.command(name)
        for level in (command, *command.actions):
            if any(option.attribute == "json" for option in level.options):
                found.append(name if level is command else f"{name} {level.name}")
    return found


# --- the declarations ----------------------------------------------------------------------------


def test_what_has_the_option_is_declared() -> None:
    assert sorted(levels()) == sorted(SCHEMAS)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_declarations_are_json_schema_with_words_for_all(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] in ("object", "array")
    rows = json_output.fields(schema)
    assert rows
    assert all(meaning for _, meaning in rows)
    assert len({field for field, _ in rows}) == len(rows)


def test_one_word_means_one_thing() -> None:
    types: dict[str, set[str]] = {}
    for schema in SCHEMAS.values():
        for field, _ in json_output.fields(schema):
            path, _, kind = field.partition(" ")
            kind = kind.replace(" or null", "")
            types.setdefault(path.rpartition(".")[2], set()).add(kind)
    # Counted here, listed there; a path here, all about it there.
    for counted in ("damaged", "images", "layers", "names", "repository", "streams"):
        types.pop(counted)
    assert {name: kinds for name, kinds in types.items() if len(kinds) > 1} == {}


# --- what is printed -----------------------------------------------------------------------------


def test_of_a_repository(output: Output, filled: Path) -> None:
    assert [row["name"] for row in output("images")] == ["one:1", "two:1"]
    assert output("inspect", "one:1")["names"] == ["one:1"]
    assert output("info")["images"] == 2
    assert len(output("du")["images"]) == 2
    assert output("du", "one:1")["images"][0]["names"] == ["one:1"]
    assert output("gc", "-n")["dry_run"] is True
    (made,) = output("pin", "one:1", "--reason", "audit")
    assert output("pin") == [made]
    assert made["reason"] == "audit"
    assert output("fsck")["clean"] is True
    assert output("verity", "status")["policy"] == "try"
    assert output("clone", f"{filled}/repo", f"{filled}/copy")["images"] == 2


def test_of_nothing(output: Output) -> None:
    output("init")
    assert output("images") == []
    assert output("du")["images"] == []


def test_of_damage(output: Output, filled: Path) -> None:
    (found,) = [
        path
        for path in (filled / "repo/objects").rglob("*")
        if path.is_file() and path.read_bytes() == b"a" * 5000
    ]
    os.chmod(found, 0o644)
    found.write_bytes(b"A" * 5000)
    (problem,) = output("fsck", code=1)["problems"]
    assert problem["images"][0]["paths"] == ["/d/a"]
    repair = output("fsck", "--repair", "--from", f"oci:{filled}/layout:one")["repair"]
    assert len(repair["restored"]) == 1


def test_of_differences(output: Output, filled: Path) -> None:
    changes = {row["path"]: row for row in output("diff", "one:1", "two:1", code=1)}
    assert changes["/c"]["change"] == "added"
    assert changes["/c"]["before"] is None
    assert changes["/c"]["after"]["mode"] == "100644"
    assert output("diff", "one:1", "one:1") == []


def test_of_trees(output: Output, filled: Path) -> None:
    tree = f"{filled}/tree"
    assert cli.main(["--repo", f"{filled}/repo", "-q", "checkout", "one:1", tree]) == 0
    (Path(tree) / "new").touch()
    shown = {row["path"]: row["record"] for row in output("meta show", "-r", tree)}
    assert shown[f"{tree}/new"] is None
    assert shown[f"{tree}/d/a"]["mode"] == "100644"
    assert output("meta check", tree) == []
    assert output("status", tree)["differences"][0]["path"] == "/new"
    assert output("commit", tree, "again")["files_without_record"] == 1


def test_of_dumps(output: Output, filled: Path) -> None:
    dump = filled / "dump"
    dump.write_bytes(b"/ 4096 40755 2 0 0 0 0.0 - - -\n")
    assert output("import-dump", str(dump), "dumped")["name"] == "dumped"
    assert output("inspect", "dumped")["manifest"] is None


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tmp_path)


def test_of_files(output: Output, made: Sample) -> None:
    where = ["--objects", str(made.object_dir), str(made.image_file)]
    top = {row["name"]: row for row in output("ls", *where)}
    assert top["null"]["device"] == [1, 3]
    assert top["null"]["mode"] == "020666"
    assert top["old"]["mtime"] == "-5.000000025"
    assert top["symlink"]["target"] == "inline"
    assert top["xattrs"]["xattrs"]["user.note"] == b"hello".hex()
    below = [row["name"] for row in output("ls", "-R", *where)]
    assert "/deep/d/d" in below
    assert [row["name"] for row in output("ls", "-d", *where, "/deep")] == ["/deep"]


@pytest.mark.fuse
def test_of_mounts(fuse: User) -> None:
    made = sample(Path(fuse.home))
    point = f"{fuse.home}/mnt"
    fuse.run("mkdir", point)
    fuse.cfs("mount", "--fuse", "--objects", str(made.object_dir), str(made.image_file), point)
    try:
        rows = json.loads(fuse.cfs("mounts", "--json").stdout)
        jsonschema.validate(rows, SCHEMAS["mounts"])
        (ours,) = [row for row in rows if row["mount_point"] == point]
        assert ours["state"] == "live"
        assert ours["requests"] >= 0
    finally:
        fuse.cfs("umount", point)
