"""Kernel mounts made by us: what they show, what they refuse, what they leave behind.

Without fs-verity in this kernel; with it the tests in vm-tests go on.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfsrepo.errors import InputError, MountError, NotFoundError, UsageError, VerityError
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.kernel import kernelmount
from cfsrepo.kernel.kernelmount import Options, Upper
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux, loopdevice, mounttable
from tests.conftest import mounts_below

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("as_root")]

CONTENT = b"content of a file that is larger than what images keep inline: " * 9
MODE = 0o751


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init(str(tmp_path / "repo:with,odd\\name")) as made:
        yield made


@pytest.fixture
def image_id(repository: Repository) -> str:
    """An image of two files, one inline and one with an object."""
    root = directory(MODE)
    assert root.entries is not None
    digest = repository.objects.put(CONTENT)
    root.uid, root.gid = 5, 6
    root.entries[b"small"] = Inode(stat.S_IFREG | 0o4755, content=b"small", size=5)
    root.entries[b"large"] = Inode(
        stat.S_IFREG | 0o640,
        uid=7,
        gid=8,
        payload=object_path(digest).encode(),
        digest=digest,
        size=len(CONTENT),
    )
    return store(repository, root)


def store(repository: Repository, root: Inode) -> str:
    parts: list[bytes] = []
    write_image(root, parts.append)
    return repository.add_image(b"".join(parts))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "target"
    path.mkdir()
    yield str(path)
    while str(path) in mounts_below(str(tmp_path)):
        subprocess.run(["umount", str(path)], check=True)


def mount(repository: Repository, image_id: str, target: str, options: Options) -> None:
    with kernelmount.measured_image(repository, image_id, require_verity=False) as fd:
        kernelmount.mount(fd, repository.objects.path, target, options)


def check(target: str) -> None:
    info = os.stat(target)
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (5, 6, MODE)
    assert os.stat(f"{target}/small").st_mode == stat.S_IFREG | 0o4755
    with open(f"{target}/large", "rb") as file:
        assert file.read() == CONTENT


def nothing_is_left() -> bool:
    mounts = [m for m in mounttable.read() if b".cfs-mount" in m.mount_point]
    places = [name for name in os.listdir("/run") if name.startswith(".cfs-mount")]
    return not mounts and not places


def test_a_mount_shows_the_image(repository: Repository, image_id: str, target: str) -> None:
    mount(repository, image_id, target, Options(name="an image"))
    check(target)
    found = mounttable.mount_of(target)
    assert found is not None
    assert found.source == b"composefs:an image"
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.mkdir(f"{target}/new")
    assert nothing_is_left()


def test_the_device_is_known_before_it_is_attached(
    repository: Repository, image_id: str, target: str
) -> None:
    with (
        kernelmount.measured_image(repository, image_id, require_verity=False) as fd,
        kernelmount.prepared(fd, repository.objects.path, Options(name="x")) as mounted,
    ):
        assert os.listdir(target) == []
        mounted.attach(target)
    found = mounttable.mount_of(target)
    assert found is not None
    assert mounted.device == found.device
    assert mounted.source.encode() == found.source


def test_changes_in_memory_go_with_the_mount(
    repository: Repository, image_id: str, target: str
) -> None:
    mount(repository, image_id, target, Options("x", in_memory=True, read_only=False))
    check(target)
    Path(target, "small").write_bytes(b"changed")
    assert nothing_is_left()
    linux.umount(target)
    mount(repository, image_id, target, Options("x"))
    assert Path(target, "small").read_bytes() == b"small"


def test_changes_in_an_upper_directory_stay(
    repository: Repository, image_id: str, target: str, tmp_path: Path
) -> None:
    upper = Upper(str(tmp_path / "up:per"), str(tmp_path / "wo\\rk"))
    os.mkdir(upper.upper, MODE)
    os.chown(upper.upper, 5, 6)
    os.mkdir(upper.work)
    for round_number in range(2):
        mount(repository, image_id, target, Options("x", upper=upper, read_only=False))
        check(target)
        assert (Path(target) / "new").exists() == bool(round_number)
        (Path(target) / "new").write_bytes(b"new")
        linux.umount(target)
    mount(repository, image_id, target, Options("x", upper=upper, read_only=True))
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.unlink(f"{target}/new")


def test_attributes_are_honoured(repository: Repository, image_id: str, target: str) -> None:
    mount(repository, image_id, target, Options("x", attributes=frozenset({"nosuid", "noexec"})))
    flags = os.statvfs(target).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NOEXEC
    assert not flags & os.ST_NODEV


def test_owners_are_shifted(repository: Repository, image_id: str, target: str) -> None:
    with subprocess.Popen(["unshare", "--user", "cat"], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        process.stdout.readline()
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text("0 100 3000\n")
        namespace = f"/proc/{process.pid}/ns/user"
        mount(repository, image_id, target, Options("x", user_namespace=namespace))
        process.stdin.close()
    assert os.stat(f"{target}/small").st_uid == 100
    assert (os.stat(f"{target}/large").st_uid, os.stat(f"{target}/large").st_gid) == (107, 108)


def test_our_own_namespace_shifts_nothing(
    repository: Repository, image_id: str, target: str
) -> None:
    with pytest.raises(MountError, match="cannot be shifted"):
        mount(repository, image_id, target, Options("x", user_namespace="/proc/self/ns/user"))
    assert os.listdir(target) == []


Create = Callable[[str, list[str], list[tuple[str, str]], int], int]


def older(steps: int, create: Create) -> Create:
    """A kernel that lacks the newest `steps` ways."""

    def refuse(
        fstype: str, flags: list[str], settings: list[tuple[str, str]], attributes: int
    ) -> int:
        given = dict(settings)
        layer, source = given.get("lowerdir+", ""), given.get("source", "")
        refused = (
            (fstype == "erofs" and source.startswith("/proc/") and errno.ENOTBLK)
            or (layer.startswith("/proc/") and errno.EINVAL)
            or (steps > 1 and layer and errno.EINVAL)
            or (steps > 2 and "::" in given.get("lowerdir", "") and errno.EINVAL)
        )
        if refused:
            raise kernelmount._RefusedError(fstype, OSError(refused, "refused"), [])
        return create(fstype, flags, settings, attributes)

    return refuse


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_older_kernels(
    repository: Repository,
    image_id: str,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    monkeypatch.setattr(kernelmount, "_create", older(steps, kernelmount._create))
    with (
        kernelmount.measured_image(repository, image_id, require_verity=False) as fd,
        kernelmount.prepared(fd, repository.objects.path, Options("x")) as mounted,
    ):
        mounted.attach(target)
    loop, layers = mounted.notes
    assert "loop device" in loop
    assert ("mounted nowhere", "one by one", "data only")[steps - 1] in layers
    check(target)
    assert nothing_is_left()
    linux.umount(target)


def test_a_loop_device_goes_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    with linux.opened(str(path), os.O_RDONLY) as fd:
        with loopdevice.attached(fd) as device, open(device, "rb") as file:
            assert file.read() == b"x" * 8192
            name = os.path.basename(device)
            assert os.path.exists(f"/sys/block/{name}/loop")
        assert not os.path.exists(f"/sys/block/{name}/loop")


def test_a_refused_mount_leaves_no_loop_device(
    repository: Repository, image_id: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernelmount, "_create", older(3, kernelmount._create))
    before = loop_devices()
    with pytest.raises(MountError):
        mount(repository, image_id, target, Options("x", require_verity=True))
    assert loop_devices() == before
    assert nothing_is_left()


def loop_devices() -> list[str]:
    return [name for name in os.listdir("/sys/block") if os.path.exists(f"/sys/block/{name}/loop")]


# --- refusals ------------------------------------------------------------------------------------


def test_only_listed_images_are_found(repository: Repository) -> None:
    digest = repository.objects.put(b"an object that is no image" * 9)
    with (
        pytest.raises(NotFoundError, match="not listed"),
        kernelmount.measured_image(repository, digest.hex(), require_verity=False),
    ):
        pass


def test_another_digest_is_refused(repository: Repository, image_id: str) -> None:
    with (
        pytest.raises(VerityError, match="is required"),
        kernelmount.measured_image(repository, image_id, require_verity=False, expected="0" * 64),
    ):
        pass


def test_a_damaged_image_is_refused(repository: Repository, image_id: str) -> None:
    path = os.path.join(repository.objects.path, object_path(bytes.fromhex(image_id)))
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data[2000] ^= 1
    os.unlink(path)
    Path(path).write_bytes(data)
    with (
        pytest.raises(VerityError, match="does not have this digest"),
        kernelmount.measured_image(repository, image_id, require_verity=False),
    ):
        pass


def test_without_verity_it_cannot_be_required(repository: Repository, image_id: str) -> None:
    if kernelmount.is_protected(repository, image_id):
        pytest.skip("this file system has fs-verity: tested in vm-tests")
    with (
        pytest.raises(VerityError, match="fs-verity"),
        kernelmount.measured_image(repository, image_id, require_verity=True),
    ):
        pass


@pytest.mark.parametrize("data", [b"", b"x" * 16, b"x" * 8192])
def test_a_file_that_is_no_image(repository: Repository, target: str, data: bytes) -> None:
    image_id = repository.add_image(data)
    with pytest.raises(InputError, match="image file"):
        mount(repository, image_id, target, Options("x"))
    assert os.listdir(target) == []


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (Options("x", attributes=frozenset({"bind"})), UsageError, "bind"),
        (
            Options("x", upper=Upper("/nowhere/u", "/nowhere/w"), read_only=False),
            MountError,
            "nowhere",
        ),
    ],
)
def test_what_cannot_be_mounted_leaves_nothing(
    repository: Repository,
    image_id: str,
    target: str,
    options: Options,
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        mount(repository, image_id, target, options)
    assert os.listdir(target) == []
    assert nothing_is_left()


def test_a_target_that_is_not_there(repository: Repository, image_id: str, tmp_path: Path) -> None:
    with pytest.raises(MountError, match="No such file"):
        mount(repository, image_id, str(tmp_path / "nowhere"), Options("x"))
    assert nothing_is_left()
