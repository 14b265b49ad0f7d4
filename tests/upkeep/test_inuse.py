"""What keeps an image that nothing names: open files, pins, mounts, servers of others."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.store import pins
from cfsrepo.store.objects import object_path
from cfsrepo.store.pins import Pin, PinKind
from cfsrepo.store.repository import Repository
from cfsrepo.system import leases, linux, mounttable
from cfsrepo.system.mounttable import Mount
from cfsrepo.system.processes import boot_id
from cfsrepo.upkeep import gc, inuse
from tests.store.repository_helpers import add_files, image_held

A, C = b"a" * 5000, b"c" * 7000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


@pytest.fixture
def image(repo: Repository) -> str:
    return repo.add_image(b"image")


def live(repo: Repository) -> list[Pin]:
    return inuse.find(repo).live_pins


def file_of(repo: Repository, image: str) -> str:
    return f"{repo.objects.path}/{object_path(bytes.fromhex(image))}"


OPEN = ["its file is open or mounted"]


# --- open files ----------------------------------------------------------------------------------


def test_nothing_is_in_use(repo: Repository, image: str) -> None:
    found = inuse.find(repo)
    assert (found.reasons, found.live_pins, found.dead_pins) == ({}, [], [])


def test_a_file_that_is_open(repo: Repository, image: str) -> None:
    with linux.opened(file_of(repo, image), os.O_RDONLY):
        assert inuse.find(repo).reasons == {image: OPEN}
    assert inuse.find(repo).reasons == {}


def test_a_file_that_is_mapped(repo: Repository, image: str) -> None:
    data = repo.open_image(image)
    assert inuse.find(repo).reasons == {image: OPEN}
    data.close()
    assert inuse.find(repo).reasons == {}


def no_leases(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = leases.fcntl.fcntl

    def fcntl(fd: int, command: int, argument: int = 0) -> int:
        if command == leases.fcntl.F_SETLEASE:
            raise OSError(code, os.strerror(code))
        return real(fd, command, argument)

    monkeypatch.setattr(leases.fcntl, "fcntl", fcntl)


@pytest.mark.parametrize("code", [*leases.REFUSED, errno.EAGAIN])
def test_without_leases_the_lock_of_our_servers_tells(
    repo: Repository, image: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAGAIN: what a network file system says of every file, whether anybody has it open or not."""
    no_leases(code, monkeypatch)
    with linux.opened(file_of(repo, image), os.O_RDONLY):
        assert inuse.find(repo).reasons == {}
    with image_held(repo, image):
        assert inuse.find(repo).reasons == {image: OPEN}
    assert inuse.find(repo).reasons == {}
    assert sorted(os.listdir(repo.objects.path)) == repo.objects.prefixes()


def test_what_cannot_be_tried_out_is_believed(
    repo: Repository, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_leases(errno.EAGAIN, monkeypatch)
    repo.writable = repo.objects.writable = False
    assert inuse.find(repo).reasons == {image: OPEN}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_pins_tell(
    repo: Repository, image: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_leases(errno.EINVAL, monkeypatch)

    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(linux.fcntl, "flock", flock)
    data = repo.open_image(image)
    assert inuse.find(repo).reasons == {}
    pin = pins.pin_process(repo, image, "/mnt/x")
    assert inuse.find(repo).reasons == {image: [pin.describe()]}
    data.close()


def test_a_damaged_image_file_is_asked_for_nothing(repo: Repository, image: str) -> None:
    os.unlink(file_of(repo, image))
    assert inuse.find(repo).reasons == {}


@pytest.mark.root
def test_a_loop_device_and_a_mounted_image(repo: Repository, tmp_path: Path) -> None:
    """Whatever program made them: nobody has written a pin."""
    image = add_files(repo, None, {"a": A}).image_id
    found = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", file_of(repo, image)],
        capture_output=True,
        check=False,
        text=True,
    )
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
    try:
        assert inuse.find(repo).reasons == {image: OPEN}
    finally:
        subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)


# --- pins ----------------------------------------------------------------------------------------


def test_the_pin_of_a_dead_process_is_dropped(repo: Repository, image: str) -> None:
    process = subprocess.Popen(["sleep", "100"])
    pin = pins.pin_process(repo, image, "/mnt/x", process.pid)
    assert live(repo) == [pin]
    process.kill()
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) is None:
        pass
    assert live(repo) == [], "a zombie serves nobody"
    process.wait()
    assert live(repo) == []
    assert pins.read(repo) == [pin], "nothing is removed"


def test_a_process_that_has_the_number_of_a_dead_one(repo: Repository, image: str) -> None:
    pin = pins.pin_process(repo, image, "/mnt/x")
    path = Path(repo.path, "cfsfuse", "pins", pin.pin_id)
    value = json.loads(path.read_text())
    value["start_time"] -= 1
    path.write_text(json.dumps(value))
    assert live(repo) == []


@pytest.mark.parametrize("kind", ["process", "mount"])
def test_the_pin_of_an_earlier_boot_is_dropped(repo: Repository, image: str, kind: str) -> None:
    pin = (
        pins.pin_process(repo, image, "/")
        if kind == "process"
        else pins.pin_mount(repo, image, "/")
    )
    path = Path(repo.path, "cfsfuse", "pins", pin.pin_id)
    path.write_text(path.read_text().replace(boot_id(), "another"))
    assert live(repo) == []


def test_a_mount_pins(repo: Repository, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = pins.pin_mount(repo, image, "/")
    assert pin.kind is PinKind.MOUNT
    assert live(repo) == [pin]
    monkeypatch.setattr(mounttable, "read_all", lambda: ([], False))
    assert live(repo) == [pin], "another namespace may have it"
    monkeypatch.setattr(mounttable, "read_all", lambda: ([], True))
    assert live(repo) == []


def test_a_person_pins_until_the_pin_is_removed(repo: Repository, image: str) -> None:
    pin = pins.pin_person(repo, image, "for the audit")
    assert live(repo) == [pin]
    assert pin.reason == "for the audit"


def test_the_pin_of_a_process_that_is_not_seen_holds_while_the_image_is_open(
    repo: Repository,
) -> None:
    """A server in another PID namespace: its number means nothing here."""
    image = untagged(repo)
    pin = pins.pin_process(repo, image, "/mnt/x")
    path = Path(repo.path, pins.path_of(pin))
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"pid": 2**22 + 1}))
    with image_held(repo, image):
        assert [found.pin_id for found in live(repo)] == [pin.pin_id]
        gc.collect(repo)
        assert [found.pin_id for found in pins.read(repo)] == [pin.pin_id]
    found = inuse.find(repo)
    assert (found.live_pins, [dead.pin_id for dead in found.dead_pins]) == ([], [pin.pin_id])
    gc.collect(repo)
    assert pins.read(repo) == []


# --- mounts and servers of others ----------------------------------------------------------------


def untagged(repo: Repository) -> str:
    image = add_files(repo, "one", {"a": A})
    repo.untag("one")
    return image.image_id


def overlay(source: str, options: str = "ro,lowerdir=/proc/self/fd/5::/proc/self/fd/6") -> Mount:
    line = f"50 28 0:77 / /mnt/image ro - overlay {source} {options}\n"
    return mounttable.parse(line.encode())[0]


Played = Callable[[Mount], None]


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Played:
    def play(mount: Mount) -> None:
        monkeypatch.setattr(mounttable, "read_all", lambda: ([mount], True))

    return play


def test_a_mounted_image(repo: Repository, mounted: Played) -> None:
    image_id = untagged(repo)
    other = add_files(repo, None, {"c": C})
    mounted(overlay(f"composefs:{image_id}"))
    assert inuse.find(repo).reasons == {image_id: ["mounted at /mnt/image"]}
    gc.collect(repo)
    assert repo.has_image(image_id)
    assert not repo.has_image(other.image_id)


def test_an_image_mounted_by_name(repo: Repository, mounted: Played) -> None:
    image = add_files(repo, "one", {"a": A})
    add_files(repo, None, {"c": C})
    mounted(overlay("composefs:one"))
    assert list(inuse.find(repo).reasons) == [image.image_id]


@pytest.mark.parametrize("source", ["composefs", "composefs:gone", "composefs-fuse"])
def test_a_mount_that_does_not_say_its_image_keeps_all(
    repo: Repository, mounted: Played, source: str
) -> None:
    image_id = untagged(repo)
    mounted(overlay(source))
    assert inuse.find(repo).reasons == {image_id: ["perhaps mounted at /mnt/image"]}


def test_a_mount_by_a_damaged_name_keeps_all(repo: Repository, mounted: Played) -> None:
    image = add_files(repo, "one", {"a": A})
    os.unlink(f"{repo.path}/streams/{repo.tags()['one']}")
    mounted(overlay("composefs:one"))
    assert list(inuse.find(repo).reasons) == [image.image_id]


@pytest.mark.parametrize(
    "mount",
    [
        overlay("composefs:" + "0" * 64),
        overlay("composefs", "ro,lowerdir+=/erofs,datadir+=/elsewhere/objects"),
        overlay("composefs", "ro,lowerdir=/erofs::/elsewhere/objects"),
        overlay("overlay"),
    ],
)
def test_mounts_of_others_keep_nothing(repo: Repository, mounted: Played, mount: Mount) -> None:
    untagged(repo)
    mounted(mount)
    assert inuse.find(repo).reasons == {}


def test_a_mount_with_our_objects_keeps_all(repo: Repository, mounted: Played) -> None:
    image_id = untagged(repo)
    mounted(overlay("composefs", f"ro,lowerdir+=/erofs,datadir+={repo.objects.path}"))
    assert list(inuse.find(repo).reasons) == [image_id]
