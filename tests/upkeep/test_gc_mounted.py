"""Collections beside real mounts: what is mounted keeps its files, whoever knows of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import User

pytestmark = pytest.mark.fuse

CONTENT = b"content of a mounted file" * 1000


def test_a_mount_without_a_pin_keeps_its_image(fuse: User) -> None:
    """As one in another PID namespace, whose pin looks dead: the server has the image mapped."""
    repo, point = os.path.join(fuse.home, "repo"), os.path.join(fuse.home, "mnt")
    tree, runtime = os.path.join(fuse.home, "tree"), os.path.join(fuse.home, "run")
    fuse.run("mkdir", point, tree, runtime)
    program = "import sys; open(sys.argv[1], 'wb').write(sys.argv[2].encode())"
    fuse.run(sys.executable, "-c", program, f"{tree}/file", CONTENT.decode())

    def cfs(*arguments: str) -> str:
        return fuse.cfs("--repo", repo, *arguments, XDG_RUNTIME_DIR=runtime).stdout

    cfs("init")
    cfs("commit", tree, "image")
    cfs("mount", "image", point)
    cfs("untag", "image")
    for pin in Path(repo, "cfsfuse", "pins").iterdir():
        pin.unlink()
    kept = json.loads(cfs("gc", "--json"))["kept"]
    assert list(kept.values()) == [["its file is open or mounted"]]
    assert fuse.run("cat", f"{point}/file").stdout.encode() == CONTENT
    cfs("umount", point)
    assert json.loads(cfs("gc", "--json"))["images"] == 1
