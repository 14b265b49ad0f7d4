"""What the tests in the guest share: programs, small images, attacks on files."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository

DEMO = "demo"
USER = 1000
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
# What the kernel shows to an ordinary user, but with the permission to read everything.
READ_ALL = ["setpriv", "--bounding-set", "-sys_admin"]


@dataclass(frozen=True, slots=True)
class Demo:
    """The pulled demo image."""

    repository: str
    image_id: str
    expected: dict[str, dict[str, Any]]

    @property
    def image_file(self) -> str:
        """Path of the image file."""
        return os.path.realpath(f"{self.repository}/images/{self.image_id}")

    @property
    def objects(self) -> str:
        """Path of the objects."""
        return f"{self.repository}/objects"


def run(*command: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; its output as text."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def cfs(
    repository: str, *arguments: str, check: bool = True, user: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `cfs`, as root or as the unprivileged user."""
    return run(*(AS_USER if user else []), "cfs", "--repo", repository, *arguments, check=check)


def measure(path: str) -> str:
    """The digest that the kernel measures, in hex."""
    return run("fsverity", "measure", path).stdout.split()[0].removeprefix("sha256:")


def digest_of(path: str) -> str:
    """The digest of a file without fs-verity."""
    return run("fsverity", "digest", path).stdout.split()[0].removeprefix("sha256:")


def mounts_below(directory: str) -> list[str]:
    """Mount points below `directory`, in the order they were mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in points if point.startswith(directory + "/")]


def kernel_log() -> str:
    """The kernel's messages so far."""
    return run("dmesg").stdout


def regular(content: bytes, mode: int = 0o644, **more: Any) -> Inode:
    """A regular file whose content is kept as an object."""
    return Inode(stat.S_IFREG | mode, content=content, size=len(content), **more)


@dataclass(frozen=True, slots=True)
class Small:
    """A repository with one image called `small`."""

    path: str
    image_id: str
    objects: dict[str, str]
    """Path of each file's object, by name."""

    @property
    def image_file(self) -> str:
        """Path of the image file."""
        return f"{self.path}/objects/{self.image_id[:2]}/{self.image_id[2:]}"

    def mount(self, target: str, *options: str, check: bool = True) -> Any:
        """`cfs mount` it."""
        return cfs(self.path, "mount", *options, "small", target, check=check)


def small_repository(
    path: str,
    files: Mapping[str, Inode],
    policy: VerityPolicy = VerityPolicy.REQUIRE,
    algorithm: Algorithm = Algorithm.SHA256,
) -> Small:
    """Make a repository with the image `small`, all of whose contents are objects."""
    root = directory()
    assert root.entries is not None
    objects = {}
    with Repository.init(path, verity=policy, algorithm=algorithm) as repository:
        for name, inode in files.items():
            if inode.content is not None:
                digest = repository.objects.put(inode.content)
                inode.payload, inode.digest, inode.content = (
                    object_path(digest).encode(),
                    digest,
                    None,
                )
                objects[name] = f"{path}/objects/{object_path(digest)}"
            root.entries[name.encode()] = inode
        parts: list[bytes] = []
        write_image(root, parts.append)
        image_id = repository.add_image(b"".join(parts), "small")
    return Small(path, image_id, objects)


def replace(path: str, content: bytes | None, *, verity: bool = False) -> None:
    """Put another file in the place of `path`, or none; with fs-verity of its own if asked."""
    os.unlink(path)
    if content is None:
        return
    with open(path, "wb") as file:
        file.write(content)
    if verity:
        run("fsverity", "enable", path)


@contextmanager
def loop_mounted(image: str, target: str, *mkfs: str) -> Iterator[None]:
    """A new ext4 file system in the file `image`, mounted at `target`; `mkfs` are its options."""
    if mkfs or not os.path.exists(image):
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        run("mke2fs", "-q", "-t", "ext4", *mkfs, image)
    run("mount", "-o", "loop", image, target)
    try:
        yield
    finally:
        run("umount", target)
