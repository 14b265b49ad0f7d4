"""The FUSE mount shows what the kernel shows for the same image file: everything, no exceptions.

The kernel's view is an EROFS mount of the image under an overlayfs with the objects as its
data-only layer, seen by root; the FUSE mount is seen by the one who made it.
"""

from __future__ import annotations

import os

import pytest

from tests.conftest import User
from tests.kernel_mounts import Seen, composefs, differences, look

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.usefixtures("as_root")]

# Root as far as file permissions go, but without CAP_SYS_ADMIN: the kernel then hides `trusted.`
# attributes, as it does from every ordinary user.
READ_ALL = ["setpriv", "--bounding-set", "-sys_admin"]


def pull(user: User, source: str) -> str:
    """Pull `source` into a fresh repository of `user`; returns its path."""
    repository = os.path.join(user.home, "repository")
    user.cfs("--repo", repository, "init")
    user.cfs("--repo", repository, "pull", source, "image")
    return repository


def image_file(repository: str) -> str:
    """The one image file of `repository`."""
    images = os.path.join(repository, "images")
    (name,) = set(os.listdir(images)) - {"refs"}
    return os.path.realpath(os.path.join(images, name))


def seen_by_kernel(repository: str, scratch: str, prefix: list[str]) -> Seen:
    with composefs(image_file(repository), os.path.join(repository, "objects"), scratch) as merged:
        return look(merged, prefix)


def seen_by_user(user: User, repository: str) -> Seen:
    mount = os.path.join(user.home, "mnt")
    user.run("mkdir", mount)
    user.cfs("--repo", repository, "mount", "image", mount)
    try:
        return look(mount, user.argv(), user.environment())
    finally:
        user.cfs("umount", mount)


def test_the_demo_image(fuse: User, demo_image: str, tmp_path: os.PathLike[str]) -> None:
    repository = pull(fuse, demo_image)
    kernel = seen_by_kernel(repository, str(tmp_path), READ_ALL)
    assert len(kernel) > 5000
    assert differences(kernel, seen_by_user(fuse, repository)) == []
