"""Pins: written whole; what is none is read as a damaged one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError
from cfsrepo.store import pins
from cfsrepo.store.pins import PinKind
from cfsrepo.store.repository import Repository


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


@pytest.fixture
def image(repo: Repository) -> str:
    return repo.add_image(b"image")


def test_without_pins(repo: Repository) -> None:
    assert pins.read(repo) == []


def test_a_process_pins(repo: Repository, image: str) -> None:
    pin = pins.pin_process(repo, image, "/mnt/x")
    assert pin.pid == os.getpid()
    assert pins.read(repo) == [pin]
    pins.remove(repo, pin)
    pins.remove(repo, pin)
    assert pins.read(repo) == []


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
        '{"version": 1, "image_id": "0", "kind": "damaged", "reason": "", "mount_point": null, '
        '"boot_id": null, "pid": 1, "start_time": null, "device": null}',
    ],
)
def test_what_is_no_pin_is_a_damaged_one(repo: Repository, image: str, text: str) -> None:
    pin = pins.pin_person(repo, image)
    Path(repo.path, "cfsfuse", "pins", pin.pin_id).write_text(text)
    (found,) = pins.read(repo)
    assert found.kind is PinKind.DAMAGED
    assert (found.pin_id, found.image_id) == (pin.pin_id, image[:12])
    assert found.reason
    assert f"pin {pin.pin_id} cannot be read" in found.describe()
    assert found.keeps(image)
    assert not found.keeps("0" * 64)


@pytest.mark.parametrize("name", ["README", "0123-x", "0123456789AB-x", "0123456789abc"])
def test_a_name_that_says_nothing_keeps_all(repo: Repository, image: str, name: str) -> None:
    Path(repo.private_directory("pins"), name).write_bytes(b"")
    (found,) = pins.read(repo)
    assert (found.kind, found.image_id, found.reason) == (PinKind.DAMAGED, "", "empty")
    assert found.keeps(image)


def test_what_cannot_be_opened_is_damaged(repo: Repository, image: str) -> None:
    directory = Path(repo.private_directory("pins"))
    (directory / f"{image[:12]}-1").mkdir()
    (directory / f"{image[:12]}-2").symlink_to("/dev/zero")
    assert [pin.kind for pin in pins.read(repo)] == [PinKind.DAMAGED] * 2


def test_a_pin_on_its_way_is_left_alone(repo: Repository, image: str) -> None:
    pins.pin_person(repo, image)
    Path(repo.path, "cfsfuse", "pins", ".half").write_text("{")
    assert len(pins.read(repo)) == 1
