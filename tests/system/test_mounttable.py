"""Parsing /proc/self/mountinfo."""

from __future__ import annotations

import pytest

from cfsrepo.system import mounttable

TABLE = rb"""22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 28 0:50 / /mnt/a\040b\011c\134d ro - overlay composefs:demo ro,lowerdir+=/x/y,datadir+=/r/objects
41 28 0:51 /sub /mnt/second rw shared:3 master:2 - tmpfs none rw,size=10k
42 28 0:52 / /mnt/return@R@ ro - tmpfs none rw
43 28 0:53 / /mnt/form@F@feed ro - tmpfs none rw
garbage
""".replace(b"@R@", b"\r").replace(b"@F@", b"\x0c")


def test_parse() -> None:
    mounts = mounttable.parse(TABLE)
    assert [mount.mount_id for mount in mounts] == [22, 28, 40, 41, 42, 43]
    overlay = mounts[2]
    assert overlay.mount_point == b"/mnt/a b\tc\\d"
    assert overlay.fstype == "overlay"
    assert overlay.source == b"composefs:demo"
    assert overlay.values(b"datadir+") == [b"/r/objects"]
    assert overlay.values(b"lowerdir+") == [b"/x/y"]
    assert overlay.values(b"upperdir") == []
    assert mounts[3].root == b"/sub"
    assert mounts[3].device == (0, 51)
    assert mounts[4].mount_point == b"/mnt/return\r"
    assert mounts[5].mount_point == b"/mnt/form\x0cfeed"


def test_malformed_lines_are_left_out() -> None:
    for line in (b"x 1 0:2 / /a rw - t s o", b"1 1 0:y / /a rw - t s o", b"1 1 02 / /a rw - t s o"):
        assert mounttable.parse(line + b"\n" + TABLE) == mounttable.parse(TABLE)


def test_a_mount_point_may_have_a_carriage_return_in_it() -> None:
    (mount,) = mounttable.parse(b"22 28 0:20 / /mnt/a\rb rw - tmpfs none rw\n")
    assert mount.mount_point == b"/mnt/a\rb"


def test_read_finds_the_root() -> None:
    assert any(mount.mount_point == b"/" for mount in mounttable.read())


@pytest.mark.parametrize(
    ("path", "wanted"), [("/mnt/second/x", 41), ("/mnt/secondary", 28), ("/", 28), ("/sys", 22)]
)
def test_mount_of(monkeypatch: pytest.MonkeyPatch, path: str, wanted: int) -> None:
    monkeypatch.setattr(mounttable, "read", lambda: mounttable.parse(TABLE))
    found = mounttable.mount_of(path)
    assert found is not None
    assert found.mount_id == wanted
