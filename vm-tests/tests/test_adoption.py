"""Files of a tree that became objects: the kernel keeps them from being changed, by either name."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from vmhelpers import AS_USER, USER, cfs, measure, run

DATA = bytes(range(256)) * 100


def object_of(repository: str, digest: str) -> Path:
    return Path(repository, "objects", digest[:2], digest[2:])


def tree_with_a_record(path: Path) -> Path:
    """A tree with one file that has a record; returns the file."""
    path.mkdir()
    (path / "tool").write_bytes(DATA)
    for place in (path, path / "tool"):
        cfs("/nowhere", "meta", "set", "--uid=0", str(place))
    return path / "tool"


def test_nobody_can_change_an_adopted_file(place: Path, mnt: str) -> None:
    repository = str(place / "repo")
    cfs(repository, "init", "--verity=require")
    tool = tree_with_a_record(place / "tree")
    done = cfs(repository, "commit", "--adopt", str(tool.parent), "adopted")
    assert "1 files are objects" in done.stderr
    found = object_of(repository, measure(str(tool)))
    assert found.samefile(tool)
    assert stat.S_IMODE(tool.stat().st_mode) == 0o644
    for path in (tool, found):
        with pytest.raises(PermissionError):
            os.open(path, os.O_WRONLY)
        with pytest.raises(PermissionError):
            os.truncate(path, 5)
    cfs(repository, "meta", "set", "--mode=4755", str(tool))  # a record is no content
    assert object_of(repository, measure(str(tool))) == found
    cfs(repository, "mount", "--require-verity", "adopted", mnt)
    assert Path(mnt, "tool").read_bytes() == DATA
    assert cfs(repository, "fsck").returncode == 0


def test_who_has_it_open_keeps_it(place: Path) -> None:
    repository = str(place / "repo")
    cfs(repository, "init", "--verity=require")
    tool = tree_with_a_record(place / "tree")
    with open(tool, "r+b") as file:
        cfs(repository, "commit", "--adopt", str(tool.parent), "adopted")
        file.write(b"edited")
    assert tool.stat().st_nlink == 1
    assert tool.read_bytes() == b"edited" + DATA[6:]
    assert cfs(repository, "fsck").returncode == 0


def test_an_ordinary_user_adopts_and_protects_later() -> None:
    """Enabling fs-verity takes the right to write, which the file's mode does not give then."""
    home = Path("/srv/adopting")
    home.mkdir(parents=True)
    try:
        os.chown(home, USER, USER)
        repository = str(home / "repo")
        cfs(repository, "init", "--verity=off", user=True)
        tool = home / "tree" / "tool"
        run(*AS_USER, "mkdir", str(tool.parent))
        run(*AS_USER, "cp", "/usr/bin/env", str(tool))
        cfs(repository, "meta", "set", "--mode=4755", str(tool), user=True)
        cfs(repository, "commit", "--adopt", str(tool.parent), "adopted", user=True)
        status = tool.stat()
        assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (2, 0o444)
        cfs(repository, "meta", "set", "--uid=5", str(tool), user=True)
        assert tool.stat().st_mode == status.st_mode
        image = cfs(repository, "commit", str(tool.parent), user=True).stdout
        cfs(repository, "verity", "enable", user=True)
        assert object_of(repository, measure(str(tool))).samefile(tool)
        assert cfs(repository, "commit", str(tool.parent), user=True).stdout == image
        assert cfs(repository, "fsck", user=True).returncode == 0
    finally:
        shutil.rmtree(home)
