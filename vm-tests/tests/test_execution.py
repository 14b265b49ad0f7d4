"""Programs of an image run with its privileges, where root mounted it so; upper layers; owners."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from pathlib import Path

import pytest
from vmhelpers import AS_USER, USER, Small, cfs, mounts_below, regular, run, small_repository

CAP_DAC_READ_SEARCH = 2
SECRET = "/root/secret"


def program(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def capability(number: int) -> bytes:
    """The extended attribute of a program that has one capability, permitted and effective."""
    revision_2_effective = 0x02000001
    return struct.pack("<IIIII", revision_2_effective, 1 << number, 0, 0, 0)


@pytest.fixture
def small(place: Path) -> Small:
    for directory in [place, *place.parents]:
        directory.chmod(directory.stat().st_mode | 0o011)
    with open(SECRET, "w", encoding="ascii") as file:
        file.write("secret")
    os.chmod(SECRET, 0o600)
    os.chmod("/root", 0o711)
    files = {
        "id": regular(program("/usr/bin/id"), 0o4755),
        "cat": regular(
            program("/usr/bin/cat"),
            0o755,
            xattrs={b"security.capability": capability(CAP_DAC_READ_SEARCH)},
        ),
        "owned": regular(b"owned" * 100, uid=7, gid=8),
    }
    made = small_repository(str(place / "repo"), files)
    os.chmod(made.path, 0o755)
    return made


def effective_user(mount: str) -> int:
    return int(run(*AS_USER, f"{mount}/id", "-u").stdout)


def reads_secret(mount: str) -> bool:
    done = run(*AS_USER, f"{mount}/cat", SECRET, check=False)
    return done.returncode == 0 and done.stdout == "secret"


def test_the_kernel_mount_gives_privileges(small: Small, mnt: str) -> None:
    small.mount(mnt)
    assert effective_user(mnt) == 0
    assert reads_secret(mnt)


def test_nosuid_takes_them(small: Small, mnt: str) -> None:
    small.mount(mnt, "-o", "nosuid")
    assert effective_user(mnt) == USER
    assert not reads_secret(mnt)


def test_the_fuse_mount_gives_none(small: Small, mnt: str) -> None:
    os.chown(mnt, USER, USER)
    cfs(small.path, "mount", "small", mnt, user=True)
    assert mnt in mounts_below(os.path.dirname(mnt))
    assert effective_user(mnt) == USER
    assert not reads_secret(mnt)
    cfs(small.path, "umount", mnt, user=True)


def test_an_upper_layer_survives(small: Small, mnt: str, place: Path) -> None:
    upper, work = place / "upper", place / "work"
    upper.mkdir()
    work.mkdir()
    layers = (f"--upper={upper}", f"--work={work}")
    small.mount(mnt, *layers)
    Path(mnt, "owned").write_bytes(b"changed")
    Path(mnt, "new").write_bytes(b"new")
    os.unlink(f"{mnt}/cat")
    cfs(small.path, "umount", mnt)
    small.mount(mnt, *layers, "--read-only")
    assert Path(mnt, "owned").read_bytes() == b"changed"
    assert sorted(os.listdir(mnt)) == ["id", "new", "owned"]
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.unlink(f"{mnt}/new")


def test_changes_in_memory_are_forgotten(small: Small, mnt: str) -> None:
    small.mount(mnt, "--rw")
    Path(mnt, "owned").write_bytes(b"changed")
    cfs(small.path, "umount", mnt)
    small.mount(mnt)
    assert Path(mnt, "owned").read_bytes() == b"owned" * 100


def test_owners_are_shifted(small: Small, mnt: str) -> None:
    with subprocess.Popen(["unshare", "--user", "cat"], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        process.stdout.readline()
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text("0 100000 65536\n")
        small.mount(mnt, f"--idmap={process.pid}")
        process.stdin.close()
    info = os.stat(f"{mnt}/owned")
    assert (info.st_uid, info.st_gid) == (100007, 100008)
    assert Path(mnt, "owned").read_bytes() == b"owned" * 100
