"""`mount -t cfs` and fstab, through mount.cfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vmhelpers import Small, cfs, regular, run, small_repository

CONTENT = b"content" * 1000


@pytest.fixture
def small(place: Path) -> Small:
    return small_repository(str(place / "repo"), {"file": regular(CONTENT)})


def options_of(mount: str) -> list[str]:
    source, options = run("findmnt", "-no", "SOURCE,OPTIONS", mount).stdout.split()
    assert source == "composefs:small"
    return options.split(",")


def test_mount_t_cfs(small: Small, mnt: str) -> None:
    run("mount", "-t", "cfs", "-o", f"repo={small.path},nosuid", "small", mnt)
    assert {"verity=require", "nosuid", "ro"} <= set(options_of(mnt))
    assert Path(mnt, "file").read_bytes() == CONTENT
    run("umount", mnt)
    assert os.listdir(mnt) == []


def test_changes_in_memory(small: Small, mnt: str) -> None:
    for _ in range(2):
        run("mount", "-t", "cfs", "-o", f"repo={small.path},memory", "small", mnt)
        assert not Path(mnt, "new").exists(), "what was written went with the mount"
        Path(mnt, "new").write_bytes(b"new")
        assert Path(mnt, "new").read_bytes() == b"new"
        run("umount", mnt)


def test_a_line_of_fstab(small: Small, mnt: str, place: Path) -> None:
    table = place / "fstab"
    layers = f"upperdir={place}/upper,workdir={place}/work"
    (place / "upper").mkdir()
    (place / "work").mkdir()
    text = f"repo={small.path},rw,digest={small.image_id},{layers},nofail,x-systemd.automount"
    table.write_text(f"small {mnt} cfs {text} 0 0\n")
    run("mount", "-T", str(table), mnt)
    assert {"verity=require", "rw"} <= set(options_of(mnt))
    Path(mnt, "new").write_bytes(b"new")
    assert (place / "upper" / "new").exists()
    cfs(small.path, "umount", mnt)


def test_a_failure_has_mounts_exit_code(small: Small, mnt: str) -> None:
    done = run(
        *("mount", "-t", "cfs", "-o", f"repo={small.path},digest={'0' * 64}", "small", mnt),
        check=False,
    )
    assert done.returncode == 32
    assert "is required" in done.stderr
