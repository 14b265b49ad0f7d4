"""The FUSE mount shows what the kernel shows for the same image file: everything, no exceptions.

The kernel's view is an EROFS mount of the image under an overlayfs with the objects as its
data-only layer, seen by root; the FUSE mount is seen by the one who made it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import User
from tests.kernel.kernel_mounts import Seen, composefs, differences, look
from tests.oci.oci_builder import (
    BLOCK_DEVICE,
    CHAR,
    FIFO,
    LayoutBuilder,
    archive,
    directory,
    hardlink,
    member,
    opaque,
    symlink,
    whiteout,
)

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.usefixtures("as_root")]

# Root as far as file permissions go, but without CAP_SYS_ADMIN: the kernel then hides `trusted.`
# attributes, as it does from every ordinary user.
READ_ALL = ["setpriv", "--bounding-set", "-sys_admin"]
ENGINES = ["--engine=direct", "--engine=pyfuse3"]
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def pull(user: User, source: str, *options: str) -> str:
    """Pull `source` into a fresh repository of `user`; returns its path."""
    repository = os.path.join(user.home, "repository")
    user.cfs("--repo", repository, "init")
    user.cfs("--repo", repository, "pull", *options, source, "image")
    return repository


def image_file(repository: str) -> str:
    """The one image file of `repository`."""
    images = os.path.join(repository, "images")
    (name,) = set(os.listdir(images)) - {"refs"}
    return os.path.realpath(os.path.join(images, name))


def seen_by_kernel(repository: str, scratch: str, prefix: list[str]) -> Seen:
    with composefs(image_file(repository), os.path.join(repository, "objects"), scratch) as merged:
        return look(merged, prefix)


def seen_by_user(user: User, repository: str, *options: str) -> Seen:
    mount = os.path.join(user.home, "mnt")
    user.run("mkdir", "-p", mount)
    user.cfs("--repo", repository, "mount", *options, "image", mount)
    try:
        return look(mount, user.argv(), user.environment())
    finally:
        user.cfs("umount", mount)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_demo_image(
    fuse: User, demo_image: str, tmp_path: os.PathLike[str], engine: str
) -> None:
    repository = pull(fuse, demo_image)
    kernel = seen_by_kernel(repository, str(tmp_path), READ_ALL)
    assert len(kernel) > 3000
    assert differences(kernel, seen_by_user(fuse, repository, engine)) == []


def odd_metadata() -> list[bytes]:
    """Modes, owners, times, devices and extended attributes."""
    return [
        *(
            member(b"mode-%o" % mode, b"m", mode=mode)
            for mode in (0, 0o1644, 0o2755, 0o4711, 0o7777)
        ),
        *(
            member(b"uid-%d" % uid, b"u", uid=uid, gid=uid)
            for uid in (65535, 65536, 2**31, 2**32 - 2)
        ),
        *(member(b"mtime%d" % mtime, b"t" * 99, mtime=mtime) for mtime in (-1, 0, 2**32, 2**33)),
        member(b"pax-mtime", b"t", pax={b"mtime": b"1234567890.987654321"}),
        member(b"null", kind=CHAR, device=(1, 3), mode=0o666),
        member(b"whiteout-like", kind=CHAR, device=(0, 0)),
        member(b"big-device", kind=CHAR, device=(4095, 1048575)),
        member(b"disk", kind=BLOCK_DEVICE, device=(8, 300), mode=0o660, gid=6),
        member(b"fifo", kind=FIFO, mode=0o600),
        member(
            b"xattrs",
            b"x",
            pax={
                b"SCHILY.xattr.user.empty": b"",
                b"SCHILY.xattr.user.binary": bytes(range(256)),
                b"SCHILY.xattr.user.large": b"v" * 3000,
                b"SCHILY.xattr.user.shared": b"value",
                b"SCHILY.xattr.trusted.hidden": b"from users",
                b"SCHILY.xattr.security.capability": CAPABILITY,
                b"SCHILY.xattr.user.\xff\xfe": b"name that is no UTF-8",
            },
        ),
        directory(b"xattr-directory", pax={b"SCHILY.xattr.user.on": b"a directory"}),
        symlink(b"xattr-link", b"x", pax={b"SCHILY.xattr.trusted.on": b"a link"}),
    ]


def odd_layers() -> list[bytes]:
    """All that tar can say and Debian does not."""
    name = b"n" * 255
    names = [
        b"a b",
        b"tab\t",
        b"new\nline",
        b"back\\slash",
        b"\xff\xfe",
        b'quote"',
        name,
        "é".encode(),
    ]
    lower = [
        directory(b"usr", mode=0o751, uid=3, gid=4, mtime=1_600_000_000),
        directory(b"odd"),
        *(member(b"odd/" + name, name * 20) for name in names),
        *(member(b"size-%d" % size, b"s" * size) for size in (0, 1, 63, 64, 65, 4095, 4096, 4097)),
        *(member(b"size-%d" % size, b"S" * size) for size in (131072, 1 << 20, (1 << 20) + 1)),
        *odd_metadata(),
        symlink(b"short", b"x"),
        symlink(b"long", b"l" * 1500),
        symlink(b"odd-target", b"\xff \n"),
        hardlink(b"link-to-symlink", b"short"),
        member(b"linked", b"L" * 1000, pax={b"SCHILY.xattr.user.shared": b"value"}),
        hardlink(b"odd/linked", b"linked"),
        directory(b"many"),
        *(member(b"many/%05d" % number) for number in range(3000)),
        directory(b"private", mode=0),
        member(b"private/file", b"inside" * 20, mode=0),
        *(directory(b"deep/" * depth + b"deep") for depth in range(60)),
        member(b"00", b"named like what hides object directories"),
        member(b"ff/file", b"parent not given"),
        member(b"emptied/a", b"a"),
        member(b"emptied/b", b"b"),
        member(b"gone", b"g"),
    ]
    upper = [
        opaque(b"emptied"),
        member(b"emptied/new", b"new"),
        whiteout(b"gone"),
        hardlink(b"odd/across", b"size-65"),
        member(b"size-64", b"replaced" * 9),
    ]
    return [archive(*lower), archive(*upper)]


@pytest.fixture
def odd_repository(fuse: User) -> str:
    layout = LayoutBuilder(os.path.join(fuse.home, "layout"))
    layout.image(*odd_layers())
    return pull(fuse, layout.source(), "--xattrs=all")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_odd_image(
    fuse: User, odd_repository: str, tmp_path: os.PathLike[str], engine: str
) -> None:
    kernel = seen_by_kernel(odd_repository, str(tmp_path), READ_ALL)
    assert len(kernel) > 3100
    assert differences(kernel, seen_by_user(fuse, odd_repository, engine)) == []


def test_an_odd_image_seen_by_root(
    fuse: User, odd_repository: str, tmp_path: os.PathLike[str]
) -> None:
    """With the attributes that only root is shown."""
    kernel = seen_by_kernel(odd_repository, str(tmp_path), [])
    assert "trusted.hidden" in kernel["./xattrs"]["xattrs"]
    mount = os.path.join(fuse.home, "mnt")
    os.mkdir(mount)
    root = [sys.executable, "-m", "cfstools"]
    subprocess.run([*root, "--repo", odd_repository, "mount", "--fuse", "image", mount], check=True)
    try:
        assert differences(kernel, look(mount, [])) == []
    finally:
        subprocess.run([*root, "umount", mount], check=True)


def test_the_comparison_sees_every_difference() -> None:
    record = {"mode": "0o100644", "ino": "./a", "xattrs": {"user.a": "1"}, "sha256": "00"}
    changed = {**record, "xattrs": {"user.a": "2"}, "sha256": "01"}
    del changed["mode"]
    assert differences({"./a": record}, {"./a": record}) == []
    found = differences({"./a": record, "./b": record}, {"./a": changed, "./c": record})
    assert [line.split(":")[1].strip() for line in found if line.startswith("./a")] == [
        "mode",
        "sha256",
        "xattrs",
    ]
    assert found[-2:] == ["./b: only in the first", "./c: only in the second"]
