"""`cfs ls` and `cfs cat`: looking into an image without mounting it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cfstools.cli import main
from tests.fuse.fuse_helpers import Sample, sample


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tmp_path)


def cfs(made: Sample, command: str, *arguments: str) -> int:
    objects = ["--objects", str(made.object_dir)]
    return main([command, str(made.image_file), *arguments, *objects])


def test_ls_lists_names(made: Sample, capfd: pytest.CaptureFixture[str]) -> None:
    assert cfs(made, "ls") == 0
    names = capfd.readouterr().out.splitlines()
    assert len(names) == len(made.root.entries or {})
    assert names == sorted(names)
    (odd,) = (name for name in names if name.startswith("odd"))
    assert odd == "odd \\x09\\x0a\\\\xff\\xfe"


def test_ls_long_shows_what_stat_says(made: Sample, capfd: pytest.CaptureFixture[str]) -> None:
    assert cfs(made, "ls", "old", "-l") == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.split()[:5] == ["-rw-r--r--", "1", "0", "0", "100"]
    assert "1969-12-31 23:59:55" in line
    assert cfs(made, "ls", "/symlink", "-l") == 0
    assert capfd.readouterr().out.rstrip().endswith("/symlink -> inline")
    assert cfs(made, "ls", "disk", "-l") == 0
    assert "259,70000" in capfd.readouterr().out


def test_ls_as_json_has_everything(made: Sample, capfd: pytest.CaptureFixture[str]) -> None:
    assert cfs(made, "ls", "--json") == 0
    records = {record["name"]: record for record in json.loads(capfd.readouterr().out)}
    assert records["far"]["mtime"] == f"{1 << 33}.000000000"
    assert records["null"]["device"] == [1, 3]
    assert records["symlink"]["target"] == "inline"
    assert records["xattrs"]["xattrs"]["user.note"] == b"hello".hex()
    assert len(records["large"]["digest"]) == 64
    assert records["link-a"]["inode"] == records["link-b"]["inode"]


def test_ls_recursive_lists_paths(made: Sample, capfd: pytest.CaptureFixture[str]) -> None:
    assert cfs(made, "ls", "deep", "-R") == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 61
    assert lines[-1] == "deep" + "/d" * 60 + "/bottom"


def test_cat_prints_bytes_and_follows_symlinks(
    made: Sample, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert cfs(made, "cat", "symlink", "large") == 0
    out = capfdbinary.readouterr().out
    assert out == made.contents[b"/inline"] + made.contents[b"/large"]


@pytest.mark.parametrize(
    ("command", "path", "code", "reason"),
    [
        ("ls", "nowhere", 3, "no such file"),
        ("cat", "nowhere", 3, "no such file"),
        ("cat", "dangling", 3, "no such file"),
        ("cat", "many", 2, "a directory"),
        ("cat", "fifo", 2, "a special file"),
    ],
)
def test_what_is_refused(
    made: Sample,
    capfd: pytest.CaptureFixture[str],
    command: str,
    path: str,
    code: int,
    reason: str,
) -> None:
    assert cfs(made, command, path) == code
    error = capfd.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


def test_cat_of_a_damaged_object(made: Sample, capfd: pytest.CaptureFixture[str]) -> None:
    made.objects[b"/file-4096"].write_bytes(bytes(4096))
    assert cfs(made, "cat", "file-4096") == 6
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "file-4096" in captured.err
    assert "digest" in captured.err


def test_what_is_no_image(made: Sample, capfd: pytest.CaptureFixture[str]) -> None:
    made.image_file.write_bytes(b"")
    assert cfs(made, "ls") == 4
    made.image_file.unlink()
    assert cfs(made, "ls") == 3
    assert len(capfd.readouterr().err.splitlines()) == 2
