"""`cfs mount` as root: by the kernel, with its options, refusals, pins, and the end of it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.store import pins
from cfsrepo.store.repository import Repository
from cfsrepo.system import mounttable
from cfsrepo.upkeep import inuse
from tests.conftest import Peer, User, mounts_below

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("as_root")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A repository with an image called `image`, a directory `mnt` to mount on."""
    root = directory()
    assert root.entries is not None
    root.entries[b"file"] = Inode(stat.S_IFREG | 0o644, content=b"content", size=7)
    parts: list[bytes] = []
    write_image(root, parts.append)
    with Repository.init(str(tmp_path / "repo")) as repository:
        repository.add_image(b"".join(parts), "image")
    (tmp_path / "mnt").mkdir()
    yield tmp_path
    for mount in reversed(mounts_below(str(tmp_path))):
        subprocess.run(["umount", mount], check=True)


def cfs(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cfstools", "--repo", str(place / "repo"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def mount(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return cfs(place, "mount", *options, "image", str(place / "mnt"))


def live_pins(place: Path) -> list[pins.Pin]:
    with Repository.open(str(place / "repo")) as repository:
        return inuse.find(repository).live_pins


@pytest.mark.parametrize("options", [[], ["--kernel"], ["-o", "nosuid,defaults,noauto,x-y=z"]])
def test_root_mounts_by_the_kernel(place: Path, options: list[str]) -> None:
    done = mount(place, *options)
    assert done.returncode == 0, done.stderr
    found = mounttable.mount_of(str(place / "mnt"))
    assert found is not None
    assert (found.fstype, found.source) == ("overlay", b"composefs:image")
    assert (place / "mnt" / "file").read_bytes() == b"content"
    assert [pin.mount_point for pin in live_pins(place)] == [str(place / "mnt")]
    assert cfs(place, "umount", str(place / "mnt")).returncode == 0
    assert os.listdir(place / "mnt") == []
    assert live_pins(place) == []


@pytest.mark.fuse
def test_root_mounts_by_fuse_when_asked_to(place: Path) -> None:
    done = mount(place, "--fuse")
    assert done.returncode == 0, done.stderr
    found = mounttable.mount_of(str(place / "mnt"))
    assert found is not None
    assert found.fstype == "fuse.cfsfuse"
    assert cfs(place, "umount", str(place / "mnt")).returncode == 0


def test_by_the_c_program(place: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    program = peer("mount.composefs")
    monkeypatch.setenv("PATH", f"{os.path.dirname(program)}:{os.environ['PATH']}")
    done = mount(place, "--helper=mount.composefs")
    assert done.returncode == 0, done.stderr
    assert (place / "mnt" / "file").read_bytes() == b"content"
    assert len(live_pins(place)) == 1
    assert cfs(place, "umount", str(place / "mnt")).returncode == 0


def test_a_missing_c_program_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = mount(place, "--helper=mount.composefs")
    if done.returncode == 0:
        pytest.skip("mount.composefs is in /usr/sbin")
    assert done.returncode == 7
    assert "mount.composefs is not installed" in done.stderr


@pytest.mark.parametrize("options", [["--rw"], ["--upper=UPPER", "--work=WORK"]])
def test_a_writable_mount(place: Path, options: list[str]) -> None:
    (place / "UPPER").mkdir()
    (place / "WORK").mkdir()
    named = [option.replace("=", f"={place}/") for option in options]
    done = mount(place, *named)
    assert done.returncode == 0, done.stderr
    (place / "mnt" / "file").write_bytes(b"changed")
    assert cfs(place, "umount", str(place / "mnt")).returncode == 0
    kept = place / "UPPER" / "file"
    assert kept.exists() == ("--rw" not in options)


def test_owners_are_shifted(place: Path) -> None:
    done = mount(place, "--idmap=0:100:10,u:1000:2000:5")
    assert done.returncode == 0, done.stderr
    info = os.stat(place / "mnt" / "file")
    assert (info.st_uid, info.st_gid) == (100, 100)


def test_options_as_in_fstab(place: Path) -> None:
    (place / "up,per").mkdir()
    (place / "work").mkdir()
    layers = f"upperdir={place}/up\\,per,workdir={place}/work"
    command = [sys.executable, "-m", "cfstools", "mount", "image", str(place / "mnt")]
    options = f"rw,{layers},repo={place}/repo,noverity,helper=builtin,nofail"
    subprocess.run([*command, "-o", options], check=True)
    (place / "mnt" / "new").write_bytes(b"new")
    assert (place / "up,per" / "new").exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--digest=" + "0" * 64], 8, "is required"),
        (["--kernel", "--fuse"], 2, "--fuse is for FUSE mounts"),
        (["--enforce-permissions", "--rw"], 2, "--rw for kernel mounts"),
        (["--upper=/tmp"], 2, "belong together"),
        (["--rw", "--upper=/tmp", "--work=/tmp"], 2, "--rw keeps changes in memory"),
        (["-o", "bind"], 2, "unknown option of -o: bind"),
        (["--idmap=1"], 7, "owners cannot be shifted"),
        (["--idmap=1:2"], 2, "not of the form"),
        (["-o", "rw,allow_other"], 2, "-o allow_other is for FUSE mounts"),
        (["-o", "digest="], 2, "needs a value"),
        (["-o", "upperdir=/tmp"], 2, "belong together"),
        (["--helper=mount.composefs", "--rw"], 2, "neither --rw"),
    ],
)
def test_refusals(place: Path, options: list[str], code: int, text: str) -> None:
    done = mount(place, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(place / "mnt") == []
    assert live_pins(place) == []


def test_a_user_is_told_about_fuse(place: Path, user: User) -> None:
    os.mkdir(f"{user.home}/mnt")
    os.chmod(place / "repo", 0o755)
    os.rename(place / "repo", f"{user.home}/repo")
    done = user.cfs(
        *("--repo", f"{user.home}/repo", "mount", "--kernel", "image", f"{user.home}/mnt"),
        check=False,
    )
    assert done.returncode == 7
    assert "only root" in done.stderr
    assert "--fuse" in done.stderr
