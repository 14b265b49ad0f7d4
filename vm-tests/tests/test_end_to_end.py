"""From the OCI layout to the mount: what is seen is what the layers say, down to the byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from vmhelpers import (
    AS_USER,
    READ_ALL,
    USER,
    Demo,
    cfs,
    digest_of,
    measure,
    mounts_below,
    run,
)

from tests.kernel.kernel_mounts import Seen, differences, look

ENFORCED = "verity=require"


def like_expected(seen: Seen, expected: dict[str, dict[str, Any]]) -> Seen:
    """`seen` in the form of the expectation: without sizes of directories, all names of a file."""
    names: dict[str, list[str]] = {}
    for path, record in seen.items():
        names.setdefault(record["ino"], []).append(path)
    form = {}
    for path, record in seen.items():
        form[path] = {**record, "ino": sorted(names[record["ino"]])}
        if record["mode"].startswith("0o4"):
            del form[path]["size"]
    for record in expected.values():
        record["ino"] = sorted(record["ino"])
    return form


@pytest.fixture
def kernel_mount(demo: Demo, mnt: str) -> str:
    cfs(demo.repository, "mount", "demo", mnt)
    return mnt


def test_the_kernel_enforces_verity_by_default(kernel_mount: str) -> None:
    line = run("findmnt", "--noheadings", "--output=SOURCE,FSTYPE,OPTIONS", kernel_mount).stdout
    assert line.split()[:2] == ["composefs:demo", "overlay"]
    assert ENFORCED in line


def test_the_kernel_mount_shows_the_layers(kernel_mount: str, demo: Demo) -> None:
    seen = like_expected(look(kernel_mount, []), demo.expected)
    assert len(seen) > 5000
    assert differences(seen, demo.expected) == []


def test_the_users_fuse_mount_shows_the_same(kernel_mount: str, demo: Demo, place: Path) -> None:
    for directory in [place, *place.parents]:
        directory.chmod(directory.stat().st_mode | 0o011)
    point = place / "fuse"
    point.mkdir()
    os.chown(point, USER, USER)
    cfs(demo.repository, "mount", "demo", str(point), user=True)
    try:
        assert differences(look(kernel_mount, READ_ALL), look(str(point), AS_USER)) == []
    finally:
        cfs(demo.repository, "umount", str(point), user=True)


def test_unmounting(kernel_mount: str, demo: Demo, place: Path) -> None:
    cfs(demo.repository, "umount", kernel_mount)
    assert mounts_below(str(place)) == []
    assert os.listdir(kernel_mount) == []


# --- one digest ----------------------------------------------------------------------------------


def test_the_kernel_measures_the_image_id(demo: Demo) -> None:
    assert measure(demo.image_file) == demo.image_id


def test_every_object_is_what_the_kernel_measures(demo: Demo) -> None:
    paths = [os.path.join(top, n) for top, _, names in os.walk(demo.objects) for n in names]
    assert len(paths) > 1000
    for start in range(0, len(paths), 500):
        lines = run("fsverity", "measure", *paths[start : start + 500]).stdout.splitlines()
        for line in lines:
            digest, path = line.split()
            assert digest == "sha256:" + "".join(path.rsplit("/", 2)[-2:])


def test_the_c_program_makes_the_same_image(demo: Demo, place: Path) -> None:
    dump, image = str(place / "dump"), str(place / "image")
    with open(dump, "wb") as file:
        file.write(run("composefs-info", "dump", demo.image_file).stdout.encode())
    run("mkcomposefs", "--min-version=1", "--from-file", dump, image)
    assert digest_of(image) == demo.image_id
    run("fsverity", "enable", image)
    assert measure(image) == demo.image_id


@pytest.mark.parametrize("how", ["mount.composefs", "mount", "cfs"])
def test_the_c_program_mounts_our_image(demo: Demo, mnt: str, how: str) -> None:
    options = f"basedir={demo.objects},digest={demo.image_id},verity"
    if how == "mount.composefs":
        run("mount.composefs", "-o", options, demo.image_file, mnt)
    elif how == "mount":
        run("mount", "-t", "composefs", "-o", options, demo.image_file, mnt)
    else:
        cfs(demo.repository, "mount", "--helper=mount.composefs", "demo", mnt)
    assert ENFORCED in run("findmnt", "--noheadings", "--output=OPTIONS", mnt).stdout
    with open(f"{mnt}/etc/os-release", encoding="utf-8") as file:
        assert "Debian" in file.read()
    if how == "cfs":
        cfs(demo.repository, "umount", mnt)
        return
    # A mount that another program made is not for `cfs umount`.
    refused = cfs(demo.repository, "umount", mnt, check=False)
    assert refused.returncode != 0
    assert "neither a mount" in refused.stderr
    run("umount", mnt)
