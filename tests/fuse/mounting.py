"""Mounts of the sample image by an unprivileged user, and looking at them from inside."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cfsfuse.options import Engine
from tests.conftest import User
from tests.fuse.fuse_helpers import Sample

# Looks at a mount from inside, as the user that made it: {name: what it found}.
PROBE = """
import ctypes, errno, json, mmap, os, stat, sys
point = sys.argv[1].encode()
def attempt(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]
def path(name):
    return os.path.join(point, name)
def read(name):
    with open(path(name), "rb") as file:
        return file.read().hex()
def mapped(name):
    with open(path(name), "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return bytes(data).hex()
def seek(name, offset, whence):
    with open(path(name), "rb") as file:
        return os.lseek(file.fileno(), offset, whence)
found = eval(sys.argv[2])
print(json.dumps(found, default=str))
"""


class Mounted:
    """A mount of the sample by an unprivileged user."""

    def __init__(self, user: User, made: Sample, engine: Engine) -> None:
        self.user = user
        self.made = made
        self.engine = engine
        self.point = os.path.join(user.home, "mnt")
        self.runtime = os.path.join(user.home, "run")
        user.run("mkdir", "-p", self.point, self.runtime)

    def cfs(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.user.cfs(*arguments, check=check, XDG_RUNTIME_DIR=self.runtime)

    def mount(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.cfs(
            "mount",
            str(self.made.image_file),
            self.point,
            "--objects",
            str(self.made.object_dir),
            "--engine",
            str(self.engine),
            *options,
            check=check,
        )

    def umount(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.cfs("umount", self.point, *options, check=check)

    def probe(self, expression: str) -> Any:
        done = self.user.run(sys.executable, "-c", PROBE, self.point, expression)
        return json.loads(done.stdout)

    def mounts(self) -> list[dict[str, Any]]:
        rows = json.loads(self.cfs("mounts", "--json").stdout)
        return [row for row in rows if row["mount_point"] == self.point]

    def log(self) -> str:
        path = os.path.join(self.user.home, ".local/state/cfsfuse/cfsfuse.log")
        return Path(path).read_text()


def wait_for_end(pid: int) -> None:
    """Return when the process has ended; the test fails where that takes too long."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([process], [], [], 20)[0]:
            pytest.fail(f"process {pid} does not end")
    finally:
        os.close(process)
