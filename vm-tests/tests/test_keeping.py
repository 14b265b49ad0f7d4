"""A collection keeps what is mounted, and takes it when it is unmounted."""

from __future__ import annotations

import os
from pathlib import Path

from vmhelpers import USER, cfs, regular, run, small_repository

CONTENT = b"content" * 1000


def test_a_mounted_image_is_kept(place: Path, mnt: str) -> None:
    small = small_repository(str(place / "repo"), {"file": regular(CONTENT)})
    small.mount(mnt)
    os.unlink(f"{small.path}/images/refs/small")
    cfs(small.path, "gc")
    assert Path(mnt, "file").read_bytes() == CONTENT
    assert os.path.exists(small.image_file)
    cfs(small.path, "umount", mnt)
    cfs(small.path, "gc")
    assert not os.path.exists(small.image_file)
    assert not os.path.exists(small.objects["file"])
    assert os.listdir(f"{small.path}/cfsfuse/pins") == []


def test_a_mount_moved_elsewhere_is_kept(place: Path, mnt: str) -> None:
    small = small_repository(str(place / "repo"), {"file": regular(CONTENT)})
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    run("mount", "--make-rprivate", "/")
    small.mount(mnt)
    run("mount", "--move", mnt, str(elsewhere))
    os.unlink(f"{small.path}/images/refs/small")
    cfs(small.path, "gc")
    assert (elsewhere / "file").read_bytes() == CONTENT


def test_the_users_mount_is_kept(place: Path, mnt: str) -> None:
    for directory in [place, *place.parents]:
        directory.chmod(directory.stat().st_mode | 0o011)
    home = place / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    os.chown(mnt, USER, USER)
    small = small_repository(str(home / "repo"), {"file": regular(CONTENT)})
    for top, directories, files in os.walk(small.path):
        for name in [".", *directories, *files]:
            os.chown(f"{top}/{name}", USER, USER, follow_symlinks=False)
    cfs(small.path, "mount", "small", mnt, user=True)
    os.unlink(f"{small.path}/images/refs/small")
    cfs(small.path, "gc", user=True)
    assert os.path.exists(small.image_file)
    cfs(small.path, "umount", mnt, user=True)
    cfs(small.path, "gc", user=True)
    assert not os.path.exists(small.image_file)
