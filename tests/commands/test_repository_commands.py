"""The repository's commands as a user runs them: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.images import names
from cfsrepo.oci.importer import pull
from cfsrepo.store import kernelverity
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfstools import cli
from tests.oci.oci_builder import LayoutBuilder, base, directory, member
from tests.store.repository_helpers import make_image_file

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 70_000

Cfs = Callable[..., str]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "repo")


@pytest.fixture
def cfs(path: str, capsys: pytest.CaptureFixture[str]) -> Cfs:
    """Runs `cfs --repo PATH ...`; returns its output. `code` is what it must exit with."""

    def run(*arguments: str, code: int = 0, repo: str | None = path) -> str:
        options = [] if repo is None else ["--repo", repo]
        capsys.readouterr()
        found = cli.main([*options, *arguments])
        said = capsys.readouterr()
        assert found == code, said.out + said.err
        if code > 1:
            assert said.err.startswith("cfs: ")
            assert said.err.count("\n") == 1, "an error is one line"
        return said.err if code > 1 else said.out

    return run


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(str(tmp_path / "layout"))
    bend = {"created": "2026-01-02T03:04:05Z"}
    builder.image(
        base(directory(b"d"), member(b"d/a", A), member(b"same", B)),
        ref="one",
        bend_config=lambda config: {**config, **bend},
    )
    builder.image(base(member(b"c", C), member(b"same", B)), ref="two")
    return builder


@pytest.fixture
def filled(path: str, layout: LayoutBuilder) -> str:
    """A repository with the images one:1 and two:1."""
    with Repository.init(path) as repo:
        for ref in ("one", "two"):
            pull(repo, layout.source(ref), f"{ref}:1")
    return path


def damage(path: str, content: bytes) -> str:
    name = object_path(fsverity.digest(content))
    Path(path, "objects", name).write_bytes(content.upper())
    return f"objects/{name}"


# --- init ----------------------------------------------------------------------------------------


def test_init(cfs: Cfs, path: str) -> None:
    assert cfs("init") == path + "\n"
    assert cfs("init") == path + "\n"
    assert "is a repository already" in cfs("init", "--algorithm=fsverity-sha512-12", code=2)
    assert cfs("images", "--json") == "[]\n"


def test_init_where_nothing_is_said(
    cfs: Cfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFS_REPO", str(tmp_path / "from environment"))
    assert cfs("init", repo=None) == f"{tmp_path}/from environment\n"
    monkeypatch.delenv("CFS_REPO")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert cfs("init", repo=None) == f"{tmp_path}/data/cfsfuse/repository\n"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cfs("init", repo=None) == f"{tmp_path}/home/.local/share/cfsfuse/repository\n"


def test_pull_makes_the_default_repository(
    cfs: Cfs,
    layout: LayoutBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CFS_REPO", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = f"{tmp_path}/data/cfsfuse/repository"
    assert cli.main(["pull", layout.source("one"), "one"]) == 0
    assert f"made the repository {path}\n" in capsys.readouterr().err
    assert cli.main(["pull", layout.source("two"), "two"]) == 0
    assert "made" not in capsys.readouterr().err
    assert "two" in cfs("images", repo=None)


def test_pull_makes_no_repository_that_was_named(
    cfs: Cfs, layout: LayoutBuilder, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such repository" in cfs("pull", layout.source("one"), code=3)
    monkeypatch.setenv("CFS_REPO", path)
    assert "no such repository" in cfs("pull", layout.source("one"), repo=None, code=3)
    assert not os.path.exists(path)


def test_without_a_repository(cfs: Cfs, path: str) -> None:
    for command in ("images", "gc", "fsck", "du", "info"):
        said = cfs(command, code=3)
        assert "no such repository" in said
        assert f"cfs --repo {path} init" in said


def test_verity_that_is_not_to_be_had(cfs: Cfs, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    assert "no fs-verity here" in cfs("init", "--verity=require", code=8)
    assert not os.path.exists(path)
    cfs("init")
    assert "no fs-verity here" in cfs("verity", "enable", code=8)
    said = cfs("verity", "status")
    assert "supported:   no" in said
    assert json.loads(cfs("verity", "status", "--json"))["policy"] == "try"


# --- names ---------------------------------------------------------------------------------------


def test_images(cfs: Cfs, filled: str) -> None:
    header, one, two = cfs("images").splitlines()
    assert header.split() == ["NAME", "IMAGE", "ID", "PLATFORM", "CREATED", "LAYERS", "PACKED"]
    assert one.split()[0] == "one:1"
    assert one.split()[2:4] == ["linux/amd64", "2026-01-02"]
    assert "ago)" in one
    assert two.split()[3] == "-"
    listed = json.loads(cfs("images", "--json"))
    assert [image["name"] for image in listed] == ["one:1", "two:1"]
    assert listed[0]["image_id"].startswith(one.split()[1])
    assert listed[0]["packed_size"] == sum(layer["size"] for layer in listed[0]["layers"])
    assert cfs("images", "-q").split() == [image["image_id"] for image in listed]


def test_tag_and_untag(cfs: Cfs, filled: str) -> None:
    cfs("tag", "one:1", "reg.example/app:latest")
    assert "reg.example/app:latest" in cfs("images")
    assert "Names:      one:1, reg.example/app:latest" in cfs("inspect", "reg.example/app")
    cfs("untag", "one:1", "reg.example/app:latest")
    assert [image["name"] for image in json.loads(cfs("images", "--json"))] == ["two:1", None]
    assert "no such name" in cfs("untag", "one:1", code=3)
    assert "no such image" in cfs("tag", "absent", "x", code=3)
    assert "'@'" in cfs("tag", "two:1", "@x", code=2)


def test_a_damaged_image_is_told(cfs: Cfs, filled: str) -> None:
    with Repository.open(filled) as repo:
        content_id = repo.tags()["one:1"]
        repo.tag("one:1-old", repo.tags()["two:1"])
    Path(filled, "streams", content_id).resolve().write_bytes(b"damaged")
    for command in (["inspect", "one:1"], ["ls", "one:1"], ["tag", "one:1", "x"], ["pin", "one:1"]):
        said = cfs(*command, code=5)
        assert "one:1: the image is damaged" in said
        assert "cfs fsck" in said
    row = next(line for line in cfs("images").splitlines() if line.startswith("one:1 "))
    assert row.split()[:3] == ["one:1", "-", "damaged"]
    listed = {image["name"]: image for image in json.loads(cfs("images", "--json"))}
    assert (listed["one:1"]["damaged"], listed["one:1-old"]["damaged"]) == (True, False)
    cfs("untag", "one:1")
    assert "one:1 " not in cfs("images")


def test_commit_onto_the_name_of_a_tag(cfs: Cfs, filled: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    cfs("commit", str(tmp_path / "tree"), "one:1")
    names_now = [image["name"] for image in json.loads(cfs("images", "--json"))]
    assert names_now.count("one:1") == 1
    assert "Manifest:   -" in cfs("inspect", "one:1")
    cfs("untag", "one:1")
    assert "no such image" in cfs("inspect", "one:1", code=3)


def test_names_of_image_files(cfs: Cfs, filled: str) -> None:
    with Repository.open(filled) as repo:
        image_id = repo.add_image(make_image_file({"a": A}, repo), "some/name")
    cfs("tag", image_id[:12], "other/name")
    assert "Names:      other/name, some/name" in cfs("inspect", "some/name")
    cfs("untag", "some/name")
    assert "other/name" in cfs("images")
    assert "without OCI documents" in cfs("inspect", "--manifest", "other/name", code=3)


def test_inspect(cfs: Cfs, filled: str, layout: LayoutBuilder) -> None:
    said = cfs("inspect", "one:1")
    assert "Created:    2026-01-02T03:04:05Z" in said
    assert "in 1 layers" in said
    record = json.loads(cfs("inspect", "--json", "one:1"))
    assert record["names"] == ["one:1"]
    assert record["platform"] == "linux/amd64"
    blob = Path(layout.blob_path(record["manifest_digest"])).read_text()
    assert record["manifest"] == json.loads(blob)


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_documents_are_byte_for_byte(
    filled: str, layout: LayoutBuilder, what: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Repository.open(filled) as repo:
        image = names.resolve(repo, "one:1")
    digest = image.manifest_digest if what == "manifest" else image.config_digest
    assert cli.main(["--repo", filled, "inspect", f"--{what}", "one:1"]) == 0
    assert capfdbinary.readouterr().out == Path(layout.blob_path(str(digest))).read_bytes()


# --- collection and pins -------------------------------------------------------------------------


def test_gc(cfs: Cfs, filled: str) -> None:
    assert cfs("gc") == "freed 0 B: 0 objects (0 B), 0 streams, 0 images\n"
    cfs("untag", "two:1")
    dry = cfs("gc", "--dry-run")
    assert dry.startswith("would free ")
    record = json.loads(cfs("gc", "-n", "--json"))
    assert (record["streams"], record["images"], record["dry_run"]) == (3, 1, True)
    assert cfs("gc") == dry.replace("would free", "freed")
    assert cfs("fsck").endswith("clean\n")


def test_pin_and_unpin(cfs: Cfs, filled: str) -> None:
    pin = cfs("pin", "two:1", "--reason", "the audit").strip()
    assert "pinned: the audit" in cfs("pin")
    cfs("untag", "two:1")
    image_id = json.loads(cfs("gc", "--json"))["kept"]
    assert list(image_id.values()) == [["pinned: the audit"]]
    assert "1" in cfs("info").split("Pins:")[1]
    cfs("unpin", pin)
    assert cfs("pin") == ""
    assert "has no pin" in cfs("unpin", "one:1", code=3)
    cfs("pin", "one:1")
    cfs("unpin", "one:1")
    assert json.loads(cfs("gc", "--json"))["images"] == 1


def test_a_damaged_pin(cfs: Cfs, filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    pin = cfs("pin", "two:1").strip()
    Path(filled, "cfsfuse", "pins", pin).write_bytes(b"")
    cfs("untag", "two:1")
    assert "cannot be read: empty" in cfs("pin")
    assert "0 images" in cfs("gc")
    assert cli.main(["--repo", filled, "gc"]) == 0
    assert f"'cfs unpin {pin}' removes it" in capsys.readouterr().err
    assert json.loads(cfs("gc", "--json"))["damaged_pins"] == [pin]
    assert f"'cfs unpin {pin}' removes it" in cfs("fsck", code=1)
    cfs("unpin", pin)
    assert "1 images" in cfs("gc")
    assert cfs("fsck").endswith("clean\n")


# --- check and repair ----------------------------------------------------------------------------


def test_fsck(cfs: Cfs, filled: str) -> None:
    assert cfs("fsck").endswith("2 images, 2 names: clean\n")
    path = damage(filled, B)
    said = cfs("fsck", code=1)
    assert f"{path}: damaged" in said
    assert "needed by one:1: /same" in said
    assert "needed by two:1: /same" in said
    record = json.loads(cfs("fsck", "--json", code=1))
    assert record["clean"] is False
    assert record["problems"][0]["images"][0]["paths"] == ["/same"]
    assert cfs("fsck", "--metadata-only").endswith("clean\n")
    assert "damaged" in cfs("fsck", "one:1", code=1)
    assert cfs("images")


def test_fsck_of_one_image(cfs: Cfs, filled: str) -> None:
    damage(filled, C)
    assert cfs("fsck", "one:1").endswith("clean\n")
    assert "/c" in cfs("fsck", "two:1", code=1)
    assert "no such image" in cfs("fsck", "three", code=3)


def test_repair(cfs: Cfs, filled: str, layout: LayoutBuilder) -> None:
    path = damage(filled, B)
    said = cfs("fsck", "--repair", "--from", f"oci:{layout.directory}")
    assert "repaired 1, moved 0 to quarantine, 0 not repaired" in said
    assert cfs("fsck").endswith("clean\n")
    damage(filled, B)
    record = json.loads(cfs("fsck", "--repair", "--from", layout.source("two"), "--json"))
    assert record["repair"]["restored"] == [path]
    damage(filled, B)
    said = cfs("fsck", "--repair", code=1)
    assert f"{path}: moved to quarantine" in said
    assert f"{path}: missing" in cfs("fsck", code=1)
    assert "--from is for --repair" in cfs("fsck", "--from", "x", code=2)


# --- space, differences, copies ------------------------------------------------------------------


def test_du(cfs: Cfs, filled: str) -> None:
    said = cfs("du")
    assert said.splitlines()[1].split()[0] == "one:1"
    assert "freed by 'cfs gc':" in said
    record = json.loads(cfs("du", "--json"))
    one, two = record["images"]
    assert (one["apparent"], two["apparent"]) == (len(A) + len(B), len(B) + len(C))
    total = record["repository"]
    assert one["unique"] + two["unique"] == total["unique"]
    assert total["unique"] + total["shared"] + total["other"] + total["garbage"] == total["disk"]
    assert len(json.loads(cfs("du", "--json", "one:1"))["images"]) == 1


def test_diff(cfs: Cfs, filled: str, tmp_path: Path) -> None:
    assert cfs("diff", "one:1", "one:1") == ""
    said = cfs("diff", "one:1", "two:1", code=1)
    assert said == "A /c\nD /d/\nD /d/a\n"
    assert cfs("diff", "-q", "one:1", "two:1", code=1) == ""
    found = json.loads(cfs("diff", "--json", "two:1", "one:1", code=1))
    assert [(row["change"], row["path"]) for row in found] == [
        ("removed", "/c"),
        ("added", "/d"),
        ("added", "/d/a"),
    ]
    assert cfs("diff", "one:1", "two:1", "/same") == ""
    assert "no such path" in cfs("diff", "one:1", "two:1", "/absent", code=3)
    (tmp_path / "dir").mkdir()
    assert "A /c" in cfs("diff", f"{tmp_path}/dir", "two:1", code=1)
    assert "no such image" in cfs("diff", "one:1", "dir", code=3)


def test_a_difference_says_both_values(cfs: Cfs, filled: str, layout: LayoutBuilder) -> None:
    tar = base(member(b"c", C + b"!", mode=0o4755, uid=5), member(b"same", B))
    layout.image(tar, ref="three")
    with Repository.open(filled) as repo:
        pull(repo, layout.source("three"), "three:1")
    said = cfs("diff", "two:1", "three:1", code=1)
    assert said == "M /c: content (70000 -> 70001 bytes), mode 0644 -> 4755, owner 0:0 -> 5:0\n"


def test_clone(cfs: Cfs, filled: str, tmp_path: Path) -> None:
    target = str(tmp_path / "copy")
    assert cfs("clone", filled, target).startswith("2 images, ")
    assert cfs("fsck", repo=target).endswith("clean\n")
    assert cfs("images", repo=target) == cfs("images")
    said = cfs("clone", filled, str(tmp_path / "one:1"), "one:1", "--share=copy")
    assert said.startswith("1 images, ")
    assert "copy" in said
    assert [
        line.split()[0] for line in cfs("images", repo=str(tmp_path / "one:1")).splitlines()[1:]
    ] == ["one:1"]
    assert "is the source itself" in cfs("clone", filled, filled + "/.", code=2)
    assert "no such repository" in cfs("clone", str(tmp_path / "absent"), target, code=3)


def test_info(cfs: Cfs, filled: str) -> None:
    said = cfs("info")
    assert "Algorithm:        fsverity-sha256-12" in said
    record = json.loads(cfs("info", "--json"))
    assert (record["images"], record["tags"], record["streams"]) == (2, 2, 6)
    assert record["verity_policy"] == "try"
    for path, message in (("cfsfuse/verity", "unknown policy"), ("meta.json", "no JSON")):
        Path(filled, path).write_text("?")
        assert message in cfs("info", code=5)
