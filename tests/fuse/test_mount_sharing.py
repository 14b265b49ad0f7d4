"""Mounts that several users meet: who may read, and who may end what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User, mounts_below
from tests.fuse.mounting import Mounted

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.usefixtures("as_root")]

THIRD = 54322


@pytest.fixture
def third(unmounted: Mounted) -> User:
    """Neither root nor the one who mounts."""
    os.chmod(unmounted.user.home, 0o755)
    return User(THIRD, THIRD, unmounted.user.home)


def cfs(unmounted: Mounted, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As root."""
    return subprocess.run(
        [sys.executable, "-m", "cfstools", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


def mount_as_root(unmounted: Mounted, *options: str) -> None:
    done = cfs(
        unmounted,
        *("mount", "--fuse", str(unmounted.made.image_file), unmounted.point),
        *("--objects", str(unmounted.made.object_dir), "--engine", str(unmounted.engine)),
        *options,
    )
    assert done.returncode == 0, done.stderr


def can_read(user: User, path: str) -> bool:
    return user.run("cat", path, check=False).returncode == 0


@pytest.fixture
def unmounted_at_the_end(unmounted: Mounted) -> Iterator[None]:
    yield
    for point in mounts_below(unmounted.user.home):
        cfs(unmounted, "umount", point)


@pytest.mark.usefixtures("unmounted_at_the_end")
def test_modes_hold_for_other_users(unmounted: Mounted, third: User) -> None:
    private, public = f"{unmounted.point}/inline", f"{unmounted.point}/file-65"
    mount_as_root(unmounted)
    assert not can_read(third, public)
    assert cfs(unmounted, "umount", unmounted.point).returncode == 0
    mount_as_root(unmounted, "-o", "allow_other")
    assert can_read(third, public)
    assert not can_read(third, private)
    assert not can_read(third, f"{unmounted.point}/7f/link-c")  # 4755 in a directory of mode 0700
    assert can_read(User(1000, 1000, third.home), private)  # the owner
    assert cfs(unmounted, "umount", unmounted.point).returncode == 0
    mount_as_root(unmounted, "-o", "allow_other,no_enforce")
    assert can_read(third, private)
    assert cfs(unmounted, "umount", unmounted.point).returncode == 0


IN_NAMESPACE = """
set -e
echo user_allow_other > "$1/fuse.conf"
mount --bind "$1/fuse.conf" /etc/fuse.conf
user=$2 third=$3
shift 3
$user "$@" -o allow_other
$third cat mnt/file-65 > /dev/null
! $third cat mnt/inline 2> /dev/null
! $user cat mnt/inline 2> /dev/null
$user fusermount3 -u mnt
$user "$@" -o allow_other --uid "$($user id -u)"
$user cat mnt/inline > /dev/null
! $third cat mnt/inline 2> /dev/null
$user fusermount3 -u mnt
"""


def test_allow_other_binds_who_mounted_too(unmounted: Mounted, third: User, tmp_path: Path) -> None:
    """In a mount namespace whose fuse.conf lets users share their mounts."""
    user = unmounted.user
    mount = [sys.executable, "-m", "cfstools", "mount", str(unmounted.made.image_file)]
    mount += [unmounted.point, "--objects", str(unmounted.made.object_dir)]
    mount += ["--engine", str(unmounted.engine)]
    words = [str(tmp_path), " ".join(user.argv()), " ".join(third.argv()), *mount]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", IN_NAMESPACE, "sh", *words],
        cwd=user.home,
        env=user.environment(XDG_RUNTIME_DIR=unmounted.runtime),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_allow_other_needs_roots_consent(unmounted: Mounted) -> None:
    """Debian's fuse.conf gives none."""
    with open("/etc/fuse.conf", encoding="utf-8") as file:
        if any(line.strip() == "user_allow_other" for line in file):
            pytest.skip("this machine's /etc/fuse.conf lets users share their mounts")
    done = unmounted.mount("-o", "allow_other", check=False)
    assert done.returncode == 7
    assert "root must put user_allow_other into /etc/fuse.conf" in done.stderr


FOREIGN = """
set -e
mkdir "$1/objects" "$1/lower" "$1/other" "$1/named"
mount -t overlay composefs -o "ro,lowerdir=$1/lower:$1/objects" "$1/other"
mount -t overlay composefs:image -o "ro,lowerdir=$1/lower:$1/objects" "$1/named"
shift
"$@" umount --all
"$@" mounts
"$@" umount --all --user nobody
"""


def test_root_ends_neither_foreign_mounts_nor_those_of_users(
    unmounted: Mounted, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "cfstools"]
    if unmounted.user.uid != 65534:
        pytest.skip("needs the user nobody")
    before = unmounted.user.argv(*command, "mount", str(unmounted.made.image_file))
    before += [unmounted.point, "--objects", str(unmounted.made.object_dir)]
    script = f"""
        set -e
        {" ".join(before)}
        {FOREIGN}
        grep -c -e "$0/named " -e "$0/other " /proc/self/mountinfo
        grep -c {unmounted.point} /proc/self/mountinfo || true
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path), str(tmp_path), *command],
        env=unmounted.user.environment(XDG_RUNTIME_DIR=unmounted.runtime),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *table, foreign, own = done.stdout.splitlines()
    assert any(unmounted.point in line for line in table)  # root's --all let it be
    assert not any("named" in line or "other" in line for line in table)
    assert (foreign, own) == ("2", "0")


def test_only_root_ends_the_mounts_of_others(mounted: Mounted, third: User) -> None:
    done = third.cfs("umount", "--all", "--user", "root", check=False)
    assert done.returncode == 2
    assert "only root" in done.stderr
    assert third.cfs("umount", "--all").returncode == 0
    assert third.cfs("umount", "--user", "root", check=False).returncode == 2
    assert len(mounted.mounts()) == 1
