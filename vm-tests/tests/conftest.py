"""Fixtures inside the guest: the pulled demo image, small repositories, an unprivileged user."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmhelpers import DEMO, Demo, cfs, mounts_below

USER = 1000


@pytest.fixture(scope="session")
def demo() -> Demo:
    """The demo's image in a repository that requires fs-verity."""
    repository = "/srv/repository"
    cfs(repository, "init", "--verity=require")
    cfs(repository, "pull", f"oci:/vm/oci:{DEMO}", "demo")
    os.chmod(repository, 0o755)  # for the unprivileged user's mount
    with open("/vm/expected.json", encoding="ascii") as file:
        expected = json.load(file)
    (image_id,) = set(os.listdir(f"{repository}/images")) - {"refs"}
    return Demo(repository, image_id, expected)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own; what is mounted below is unmounted at the end."""
    yield tmp_path
    for mount in reversed(mounts_below(str(tmp_path))):
        subprocess.run(["umount", mount], check=True)


@pytest.fixture
def mnt(place: Path) -> str:
    """A directory to mount on."""
    path = place / "mnt"
    path.mkdir()
    return str(path)
