"""What an older kernel lacks is done another way, with the same protection."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from vmhelpers import cfs, regular, replace, run, small_repository

from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.kernel import kernelmount
from cfsrepo.store.repository import Repository

CONTENT = b"content" * 1000


def test_by_a_loop_device(place: Path, mnt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = kernelmount._create

    def refuse(
        fstype: str, flags: list[str], settings: list[tuple[str, str]], attributes: int
    ) -> int:
        if fstype == "erofs" and dict(settings)["source"].startswith("/proc/"):
            raise kernelmount._RefusedError(fstype, OSError(errno.ENOTBLK, "refused"), [])
        return create(fstype, flags, settings, attributes)

    monkeypatch.setattr(kernelmount, "_create", refuse)
    small = small_repository(
        str(place / "repo"), {"one": regular(CONTENT), "two": regular(CONTENT + b"2")}
    )
    with (
        Repository.open(small.path) as repository,
        kernelmount.measured_image(repository, small.image_id, require_verity=True) as image,
    ):
        options = kernelmount.Options("loop", require_verity=True)
        kernelmount.mount(image, repository.objects.path, mnt, options)
    assert small.image_id[2:] in run("losetup", "--list", "--noheadings").stdout
    assert Path(mnt, "one").read_bytes() == CONTENT
    replace(small.objects["two"], CONTENT)
    with pytest.raises(OSError, match="Input/output error"):
        Path(mnt, "two").read_bytes()
    run("umount", mnt)
    assert run("losetup", "--list", "--noheadings").stdout == ""


def test_sha512(place: Path, mnt: str) -> None:
    files = {"one": regular(CONTENT), "two": regular(CONTENT + b"2")}
    small = small_repository(str(place / "repo"), files, algorithm=Algorithm.SHA512)
    assert len(small.image_id) == 128
    small.mount(mnt, "--digest", small.image_id)
    assert Path(mnt, "one").read_bytes() == CONTENT
    replace(small.objects["two"], CONTENT + b"2")
    with pytest.raises(OSError, match="Input/output error"):
        Path(mnt, "two").read_bytes()


def test_what_this_kernel_can(place: Path, mnt: str) -> None:
    """Recorded in the log of the run: which step of the ladder each kernel takes."""
    small = small_repository(str(place / "repo"), {"one": regular(CONTENT)})
    done = cfs(small.path, "-v", "mount", "small", mnt)
    options = run("findmnt", "--noheadings", "--output=OPTIONS", mnt).stdout
    print(os.uname().release, options, done.stderr)
    assert "fs-verity compares every file" in done.stderr
    assert "verity=require" in options
    assert ("lowerdir+=" in options) or ("lowerdir=" in options)
