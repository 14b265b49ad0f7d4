"""fs-verity given to a repository that came from a place without it; file systems that lack it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from vmhelpers import Small, cfs, loop_mounted, measure, regular, run, small_repository

from cfsrepo.formats.fsverity import VerityPolicy

FILES = 2000


def status(repository: str) -> dict[str, int | str | bool]:
    """What `cfs verity status` says; its exit code is 1 while the policy is not met."""
    done = cfs(repository, "verity", "status", "--json", check=False)
    found: dict[str, int | str | bool] = json.loads(done.stdout)
    return found


@pytest.fixture
def copied(place: Path) -> Small:
    """A repository that was made, and then copied with what any copying tool keeps."""
    files = {f"{number:04}": regular(b"%04d" % number * 100) for number in range(FILES)}
    made = small_repository(str(place / "made"), files, VerityPolicy.OFF)
    path = str(place / "repo")
    shutil.copytree(made.path, path, symlinks=True)
    shutil.rmtree(made.path)
    objects = {name: old.replace(made.path, path) for name, old in made.objects.items()}
    return Small(path, made.image_id, objects)


def test_enabling_survives_being_killed(copied: Small, mnt: str) -> None:
    done = copied.mount(mnt, "--require-verity", check=False)
    assert done.returncode == 8
    assert f"cfs --repo {copied.path} verity enable" in done.stderr
    before = 0
    kills = 0
    for _ in range(4):
        with subprocess.Popen(["cfs", "--repo", copied.path, "verity", "enable"]) as process:
            # Kill it in the middle: when it has protected some files more.
            while process.poll() is None and protected_at_least(copied) <= before:
                time.sleep(0.02)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        found = status(copied.path)
        assert before <= int(found["protected"]) <= FILES + 1
        before = int(found["protected"])
        if found["unprotected"]:
            assert found["policy"] != "require"
    assert kills
    cfs(copied.path, "verity", "enable")
    found = status(copied.path)
    assert (found["policy"], found["meta_protected"], found["unprotected"]) == ("require", True, 0)
    assert measure(copied.image_file) == copied.image_id
    copied.mount(mnt)
    assert "verity=require" in run("findmnt", "-no", "OPTIONS", mnt).stdout
    for number in (0, 1, FILES - 1):
        assert Path(mnt, f"{number:04}").read_bytes() == b"%04d" % number * 100
    assert cfs(copied.path, "fsck").returncode == 0


def protected_at_least(small: Small) -> int:
    """How many of every 50th object the kernel protects: fewer than there are in all."""
    sample = [small.objects[f"{number:04}"] for number in range(0, FILES, 50)]
    done = run("lsattr", *sample, check=False)
    return sum("V" in line.split()[0] for line in done.stdout.splitlines())


def test_a_copy_that_lost_its_protection_is_noticed(place: Path, mnt: str) -> None:
    small = small_repository(str(place / "repo"), {"file": regular(b"content" * 100)})
    copy = str(place / "copy")
    shutil.copytree(small.path, copy, symlinks=True)
    done = cfs(copy, "mount", "small", mnt, check=False)
    assert done.returncode == 8
    assert "verity enable" in done.stderr
    cfs(copy, "verity", "enable")
    cfs(copy, "mount", "small", mnt)
    assert Path(mnt, "file").read_bytes() == b"content" * 100


def test_the_error_names_the_command_that_turns_it_on(place: Path) -> None:
    disk, fs = str(place / "disk"), place / "fs"
    fs.mkdir()
    with loop_mounted(disk, str(fs), "-O", "^verity", "-b", "4096"):
        done = cfs(str(fs / "repo"), "init", "--verity=require", check=False)
        assert done.returncode == 8
        assert not (fs / "repo").exists()
        command = re.search(r"tune2fs -O verity (/dev/\w+)", done.stderr)
        assert command is not None
        device = command[1]
        assert device == run("findmnt", "-no", "SOURCE", str(fs)).stdout.strip()
    run("tune2fs", "-O", "verity", disk)  # the file behind what was the device
    with loop_mounted(disk, str(fs)):
        cfs(str(fs / "repo"), "init", "--verity=require")


def test_try_uses_it_where_it_is(place: Path, mnt: str) -> None:
    small = small_repository(
        str(place / "repo"), {"file": regular(b"content" * 100)}, VerityPolicy.TRY
    )
    assert measure(small.image_file) == small.image_id
    small.mount(mnt)  # and enforces it then
    assert "verity=require" in run("findmnt", "-no", "OPTIONS", mnt).stdout


def test_without_it_try_works_and_require_does_not(place: Path, mnt: str) -> None:
    fs = place / "tmpfs"
    fs.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(fs))
    files = {"file": regular(b"content" * 100)}
    small = small_repository(str(fs / "repo"), files, VerityPolicy.TRY)
    small.mount(mnt)
    assert "verity" not in run("findmnt", "-no", "OPTIONS", mnt).stdout
    assert Path(mnt, "file").read_bytes() == b"content" * 100
    cfs(small.path, "umount", mnt)
    done = small.mount(mnt, "--require-verity", check=False)
    assert done.returncode == 8
    assert "tmpfs has no fs-verity" in done.stderr
    assert os.listdir(mnt) == []


def test_fsck_measures_by_the_kernel(place: Path) -> None:
    small = small_repository(str(place / "repo"), {"file": regular(b"content" * 100)})
    assert cfs(small.path, "fsck").returncode == 0
    os.unlink(small.objects["file"])
    with open(small.objects["file"], "wb") as file:
        file.write(b"content" * 100)  # right, but nobody guards it
    done = cfs(small.path, "fsck", check=False)
    assert done.returncode == 1
    assert "unprotected" in done.stdout
