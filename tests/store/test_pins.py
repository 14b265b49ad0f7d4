"""Pins: written whole, recognised when dead, never taken for dead when not understood."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, RepositoryError
from cfsrepo.store import pins
from cfsrepo.store.pins import PinKind
from cfsrepo.store.repository import Repository
from cfsrepo.system import mounttable
from cfsrepo.system.processes import boot_id


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


@pytest.fixture
def image(repo: Repository) -> str:
    return repo.add_image(b"image")


def test_without_pins(repo: Repository) -> None:
    assert pins.read(repo) == []
    assert pins.live(repo, drop=True) == []


def test_a_process_pins(repo: Repository, image: str) -> None:
    pin = pins.pin_process(repo, image, "/mnt/x")
    assert pin.pid == os.getpid()
    assert pins.read(repo) == [pin]
    assert pins.live(repo, drop=True) == [pin]
    pins.remove(repo, pin)
    pins.remove(repo, pin)
    assert pins.read(repo) == []


def test_the_pin_of_a_dead_process_is_dropped(repo: Repository, image: str) -> None:
    process = subprocess.Popen(["sleep", "100"])
    pin = pins.pin_process(repo, image, "/mnt/x", process.pid)
    assert pins.live(repo) == [pin]
    process.kill()
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) is None:
        pass
    assert pins.live(repo) == [], "a zombie serves nobody"
    process.wait()
    assert pins.live(repo) == []
    assert pins.read(repo) == [pin]
    assert pins.live(repo, drop=True) == []
    assert pins.read(repo) == []


def test_a_process_that_has_the_number_of_a_dead_one(repo: Repository, image: str) -> None:
    pin = pins.pin_process(repo, image, "/mnt/x")
    path = Path(repo.path, "cfsfuse", "pins", pin.pin_id)
    value = json.loads(path.read_text())
    value["start_time"] -= 1
    path.write_text(json.dumps(value))
    assert pins.live(repo) == []


@pytest.mark.parametrize("kind", ["process", "mount"])
def test_the_pin_of_an_earlier_boot_is_dropped(repo: Repository, image: str, kind: str) -> None:
    pin = (
        pins.pin_process(repo, image, "/")
        if kind == "process"
        else pins.pin_mount(repo, image, "/")
    )
    path = Path(repo.path, "cfsfuse", "pins", pin.pin_id)
    path.write_text(path.read_text().replace(boot_id(), "another"))
    assert pins.live(repo) == []


def test_a_mount_pins(repo: Repository, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = pins.pin_mount(repo, image, "/")
    assert pin.kind is PinKind.MOUNT
    assert pins.live(repo) == [pin]
    monkeypatch.setattr(mounttable, "read_all", lambda: ([], False))
    assert pins.live(repo) == [pin], "another namespace may have it"
    monkeypatch.setattr(mounttable, "read_all", lambda: ([], True))
    assert pins.live(repo) == []


def test_a_person_pins_until_the_pin_is_removed(repo: Repository, image: str) -> None:
    pin = pins.pin_person(repo, image, "for the audit")
    assert pins.live(repo, drop=True) == [pin]
    assert pin.reason == "for the audit"


def test_remove_at(repo: Repository, image: str) -> None:
    pins.pin_process(repo, image, "/mnt/x")
    other = pins.pin_process(repo, image, "/mnt/y")
    assert pins.remove_at(repo, "/mnt/x") == 1
    assert pins.remove_at(repo, "/mnt/x") == 0
    assert pins.read(repo) == [other]


def test_only_images_are_pinned(repo: Repository, image: str) -> None:
    with pytest.raises(NotFoundError, match="no such image"):
        pins.pin_person(repo, "0" * 64)
    with pytest.raises(NotFoundError, match="does not exist"):
        pins.pin_process(repo, image, "/mnt/x", 2**22 + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1}',
        '{"version": 1, "image_id": 1, "kind": "person", "reason": "", "mount_point": null, '
        '"boot_id": null, "pid": null, "start_time": null, "device": null}',
        '{"version": 1, "image_id": "0", "kind": "process", "reason": "", "mount_point": null, '
        '"boot_id": null, "pid": null, "start_time": null, "device": null}',
    ],
)
def test_what_is_not_understood_is_an_error(repo: Repository, image: str, text: str) -> None:
    pin = pins.pin_person(repo, image)
    path = Path(repo.path, "cfsfuse", "pins", pin.pin_id)
    path.write_text(text)
    with pytest.raises(RepositoryError, match="cannot be understood") as caught:
        pins.live(repo)
    assert str(path) in str(caught.value)


def test_a_pin_on_its_way_is_left_alone(repo: Repository, image: str) -> None:
    pins.pin_person(repo, image)
    Path(repo.path, "cfsfuse", "pins", ".half").write_text("{")
    assert len(pins.read(repo)) == 1
