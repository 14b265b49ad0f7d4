"""The whole way: an image edited without root, and what the kernel shows of it to root.

An unprivileged user checks an image out, changes it with ordinary tools and `cfs meta`, commits;
root takes it over into a repository of its own and mounts it with the kernel.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from cfsrepo.images import names
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep.clone import clone
from tests.conftest import Peer, User
from tests.kernel.kernel_mounts import Seen, composefs, look
from tests.oci.oci_builder import CHAR, LayoutBuilder, base, directory, hardlink, member, symlink

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("as_root")]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
READ_ALL = ["setpriv", "--bounding-set", "-sys_admin"]


def seen(repository: str, name: str, scratch: str) -> Seen:
    """What the kernel shows of the image `name`."""
    os.mkdir(scratch)
    with Repository.open(repository) as repo:
        image = os.path.join(repo.path, "images", names.resolve(repo, name).image_id)
    objects = os.path.join(repository, "objects")
    with composefs(os.path.realpath(image), objects, scratch) as merged:
        return look(merged, READ_ALL)


def sample(user: User) -> LayoutBuilder:
    """An image with what only root could have on disk."""
    layout = LayoutBuilder(os.path.join(user.home, "layout"))
    pax = {b"SCHILY.xattr.security.capability": CAPABILITY}
    layout.image(
        base(
            directory(b"etc", mtime=5),
            member(b"etc/config", b"color = red\n" * 20, uid=8, mode=0o640, mtime=6),
            member(b"usr/ping", b"p" * 100, pax=pax, mode=0o755),
            member(b"usr/su", b"s" * 100, mode=0o4755),
            hardlink(b"usr/su2", b"usr/su"),
            symlink(b"usr/owned", b"su", uid=3),
            directory(b"dev"),
            member(b"dev/null", kind=CHAR, device=(1, 3), mode=0o666),
        )
    )
    return layout


@pytest.mark.parametrize("oci", [False, True])
def test_edited_without_root(oci: bool, user: User, peer: Peer, tmp_path: object) -> None:
    layout = sample(user)
    tree = os.path.join(user.home, "tree")
    user.cfs("init")
    user.cfs("pull", layout.source(), "image")
    user.cfs("checkout", "image", tree)
    user.run("sed", "-i", "s/red/blue/", f"{tree}/etc/config")
    user.run("cp", "/bin/true", f"{tree}/usr/tool")
    user.cfs("meta", "set", "--mode", "4755", "--uid", "0", f"{tree}/usr/tool")
    user.cfs("meta", "set", "--xattr", f"security.capability=0x{CAPABILITY.hex()}",
             f"{tree}/usr/tool")  # fmt: skip
    user.run("touch", f"{tree}/dev/kmsg")
    user.cfs("meta", "set", "--type=char", "--device=1:11", "--mode=600", "--gid=4",
             f"{tree}/dev/kmsg")  # fmt: skip
    options = ["--oci"] if oci else []
    user.cfs("commit", *options, "--base", "image", tree, "edited")

    theirs = os.path.join(user.home, ".local/share/cfsfuse/repository")
    root = f"{tmp_path}/root"
    with Repository.open(theirs) as source, Repository.init(root) as target:
        clone(source, target, [names.resolve(source, name) for name in ("image", "edited")])
    before = seen(root, "image", f"{tmp_path}/before")
    after = seen(root, "edited", f"{tmp_path}/after")

    changed = {path for path in after if after[path] != before.get(path)}
    new = {path for path in after if path not in before}
    assert {path.rsplit("/", 1)[-1] for path in new} == {"tool", "kmsg"}
    changed_names = {path.rsplit("/", 1)[-1] for path in changed - new}
    # Times of directories in which a file was made; `/` takes after /usr in an OCI image.
    assert changed_names <= {"config", "etc", "usr", "dev", "."}
    assert before.keys() <= after.keys()
    check_edited(root, peer("getcap"), f"{tmp_path}/shown")


def check_edited(root: str, getcap: str, shown: str) -> None:
    """The kernel shows the edited image in the repository `root` as it was committed."""
    os.mkdir(shown)
    with Repository.open(root) as repo:
        image = os.path.join(repo.path, "images", names.resolve(repo, "edited").image_id)
    with composefs(os.path.realpath(image), f"{root}/objects", shown) as merged:
        tool = os.stat(f"{merged}/usr/tool")
        assert (tool.st_mode, tool.st_uid) == (0o104755, 0)
        assert os.getxattr(f"{merged}/usr/tool", "security.capability")[:4] == CAPABILITY[:4]
        listed = subprocess.run(
            [getcap, f"{merged}/usr/tool"], check=True, capture_output=True, text=True
        )
        assert "cap_net_raw" in listed.stdout
        kmsg = os.stat(f"{merged}/dev/kmsg")
        assert (kmsg.st_mode, kmsg.st_gid, kmsg.st_rdev) == (0o020600, 4, os.makedev(1, 11))
        config = os.stat(f"{merged}/etc/config")
        assert (config.st_mode, config.st_uid) == (0o100640, 8)
        with open(f"{merged}/etc/config", encoding="ascii") as file:
            assert file.read() == "color = blue\n" * 20
