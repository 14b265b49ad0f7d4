"""Who can write to the backing store gets an error into a mount, never other data."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from vmhelpers import (
    Small,
    cfs,
    kernel_log,
    loop_mounted,
    mounts_below,
    regular,
    replace,
    run,
    small_repository,
)

from cfsrepo.kernel import kernelmount
from cfsrepo.store.repository import Repository

# No two blocks are alike: a block is found again on the disk.
CONTENT = b"".join(b"the image promises line %06d\n" % number for number in range(1000))
OTHER = b"".join(b"an attacker writes line %06d\n" % number for number in range(1000))
assert len(CONTENT) == len(OTHER)


@pytest.fixture
def small(place: Path) -> Small:
    return small_repository(str(place / "repo"), {"file": regular(CONTENT)})


def mounted(small: Small, mnt: str) -> str:
    small.mount(mnt)
    return f"{mnt}/file"


@pytest.mark.parametrize(
    ("content", "verity", "says"),
    [
        (OTHER, False, "has no fs-verity digest"),
        (OTHER, True, "has the wrong fs-verity digest"),
        (CONTENT, False, "has no fs-verity digest"),
        (CONTENT[:4096], False, "has no fs-verity digest"),
        (CONTENT[:4096], True, "has the wrong fs-verity digest"),
        (b"", True, "has the wrong fs-verity digest"),
        (None, False, None),
    ],
    ids=[
        "other",
        "other-protected",
        "same-unprotected",
        "shorter",
        "shorter-protected",
        "empty-protected",
        "removed",
    ],
)
def test_a_replaced_object(
    small: Small, mnt: str, content: bytes | None, verity: bool, says: str | None
) -> None:
    path = mounted(small, mnt)
    run("dmesg", "--clear")
    replace(small.objects["file"], content, verity=verity)
    assert os.stat(path).st_size == len(CONTENT)  # what the image says
    with pytest.raises(OSError, match=r"Input/output error|No such file") as caught:
        os.close(os.open(path, os.O_RDONLY))
    if says is None:
        assert caught.value.errno in (errno.EIO, errno.ENOENT)
    else:
        assert caught.value.errno == errno.EIO
        assert says in kernel_log()


def test_a_protected_object_cannot_be_written(small: Small, mnt: str) -> None:
    path = mounted(small, mnt)
    with pytest.raises(PermissionError):
        os.close(os.open(small.objects["file"], os.O_RDWR))
    with pytest.raises(PermissionError):
        os.truncate(small.objects["file"], 10)
    with open(path, "rb") as file:
        assert file.read() == CONTENT


def test_a_byte_changed_on_the_disk(place: Path, mnt: str) -> None:
    disk, fs = str(place / "disk"), place / "fs"
    fs.mkdir()
    with loop_mounted(disk, str(fs), "-O", "verity", "-b", "4096"):
        small = small_repository(str(fs / "repo"), {"file": regular(CONTENT)})
    with open(disk, "r+b") as raw:
        at = raw.read().index(CONTENT[4096:8192])
        raw.seek(at + 100)
        raw.write(b"\0")
    with loop_mounted(disk, str(fs)):
        path = mounted(small, mnt)
        with open(path, "rb") as file:
            assert os.pread(file.fileno(), 4096, 0) == CONTENT[:4096]
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(file.fileno(), 4096, 4096)
        assert "FILE CORRUPTED" in kernel_log()
        cfs(small.path, "umount", mnt)


# --- the image -----------------------------------------------------------------------------------


def refused(small: Small, mnt: str, *options: str) -> str:
    """The one line with which a mount is refused for its digest."""
    done = small.mount(mnt, *options, check=False)
    assert done.returncode == 8
    assert os.listdir(mnt) == []
    assert "cfs-mount" not in "".join(mounts_below("/run"))
    (line,) = done.stderr.splitlines()
    return str(line)


def test_a_wrong_digest(small: Small, mnt: str) -> None:
    assert "is required" in refused(small, mnt, "--digest", "0" * 64)
    small.mount(mnt, "--digest", small.image_id)


@pytest.mark.parametrize("verity", [False, True], ids=["unprotected", "protected"])
def test_another_file_in_the_images_place(small: Small, mnt: str, verity: bool) -> None:
    with open(small.image_file, "rb") as file:
        data = bytearray(file.read())
    data[1024 + 128 + 10] ^= 1
    replace(small.image_file, bytes(data), verity=verity)
    text = "does not have this digest" if verity else "the image file has no fs-verity"
    assert text in refused(small, mnt)


def test_an_image_that_lost_its_protection(small: Small, mnt: str) -> None:
    with open(small.image_file, "rb") as file:
        data = file.read()
    replace(small.image_file, data)
    line = refused(small, mnt)
    assert "the image file has no fs-verity" in line
    assert "verity enable" in line


def test_an_image_that_is_not_listed(small: Small, mnt: str) -> None:
    os.unlink(f"{small.path}/images/refs/small")
    os.unlink(f"{small.path}/images/{small.image_id}")
    done = cfs(small.path, "mount", small.image_id, mnt, check=False)
    assert done.returncode == 3
    assert "no such image" in done.stderr


def test_the_image_is_exchanged_after_it_was_measured(small: Small, place: Path, mnt: str) -> None:
    other = small_repository(str(place / "other"), {"file": regular(OTHER)})
    with (
        Repository.open(small.path) as repository,
        kernelmount.measured_image(repository, small.image_id, require_verity=True) as image,
    ):
        os.rename(other.image_file, small.image_file)
        options = kernelmount.Options("raced", require_verity=True)
        kernelmount.mount(image, repository.objects.path, mnt, options)
    with open(f"{mnt}/file", "rb") as file:
        assert file.read() == CONTENT


def test_without_enforcement_nothing_is_noticed(small: Small, mnt: str) -> None:
    """Why the option exists, and that the tests above test something."""
    small.mount(mnt, "--no-require-verity")
    replace(small.objects["file"], OTHER)
    with open(f"{mnt}/file", "rb") as file:
        assert file.read() == OTHER
