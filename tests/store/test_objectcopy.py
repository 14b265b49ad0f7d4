"""Objects from another store: verified whatever way they come, and never in place of a good one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, RepositoryError
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.store import kernelverity
from cfsrepo.store.objectcopy import Ways, copy_object
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.system import linux

CONTENT = b"content " * 1000
WAYS = ("reflink", "hardlink", "copy")


@pytest.fixture
def source(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "source"), Algorithm.SHA256, VerityPolicy.OFF)


@pytest.fixture
def target(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "target"), Algorithm.SHA256, VerityPolicy.OFF)


@pytest.fixture(params=WAYS)
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ways:
    """One way only; blocks are shared by copying them."""

    def clone_file(src: int, dst: int) -> bool:
        os.sendfile(dst, src, 0, 1 << 30)
        return True

    monkeypatch.setattr(linux, "clone_file", clone_file)
    return Ways(request.param == "reflink", request.param == "hardlink")


def way(ways: Ways) -> str:
    return "reflink" if ways.reflink else "hardlink" if ways.hardlink else "copy"


def path_of(store: ObjectStore, digest: bytes) -> Path:
    return Path(store.path, object_path(digest))


def leftovers(store: ObjectStore) -> list[str]:
    return [name for name in os.listdir(store.path) if len(name) != 2]


def test_an_object_comes_over(source: ObjectStore, target: ObjectStore, ways: Ways) -> None:
    digest = source.put(CONTENT)
    expected = way(ways)
    assert copy_object(source, target, digest, ways) == expected
    assert target.read(digest) == CONTENT
    assert copy_object(source, target, digest, ways) == "present"
    assert leftovers(target) == []


@pytest.mark.parametrize("damage", [CONTENT[:100], CONTENT.upper(), b"", CONTENT + b"more"])
def test_what_is_damaged_does_not_get_the_name(
    source: ObjectStore, target: ObjectStore, ways: Ways, damage: bytes
) -> None:
    digest = source.put(CONTENT)
    path_of(source, digest).write_bytes(damage)
    with pytest.raises(RepositoryError, match="does not have this digest") as caught:
        copy_object(source, target, digest, ways)
    assert source.path in str(caught.value), "it names the damaged file"
    assert not target.has(digest)
    assert leftovers(target) == []


@pytest.mark.parametrize("damage", [CONTENT[:100], CONTENT.upper(), b""])
def test_a_good_object_is_not_replaced_by_a_damaged_one(
    source: ObjectStore, target: ObjectStore, ways: Ways, damage: bytes
) -> None:
    digest = source.put(CONTENT)
    path_of(source, digest).write_bytes(damage)
    target.put(CONTENT)
    before = path_of(target, digest).stat().st_ino
    assert copy_object(source, target, digest, ways) == "present"
    assert target.read(digest) == CONTENT
    assert path_of(target, digest).stat().st_ino == before


def test_a_cut_object_is_replaced(source: ObjectStore, target: ObjectStore, ways: Ways) -> None:
    digest = source.put(CONTENT)
    target.put(CONTENT)
    os.truncate(path_of(target, digest), 100)
    assert copy_object(source, target, digest, ways) == way(ways)
    assert target.read(digest) == CONTENT


def test_both_are_damaged(source: ObjectStore, target: ObjectStore, ways: Ways) -> None:
    digest = source.put(CONTENT)
    target.put(CONTENT)
    os.truncate(path_of(target, digest), 100)
    os.truncate(path_of(source, digest), 200)
    with pytest.raises(RepositoryError, match="does not have this digest"):
        copy_object(source, target, digest, ways)
    assert target.size(digest) == 100, "it is left for a repair to look at"


def test_a_damaged_object_is_not_protected(
    source: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard link is the source's own file: fs-verity would keep its damage for ever."""
    protected: list[int] = []
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: protected.append(fd))
    target = ObjectStore(str(tmp_path / "target"), Algorithm.SHA256, VerityPolicy.TRY)
    digest = source.put(CONTENT)
    path_of(source, digest).write_bytes(CONTENT.upper())
    with pytest.raises(RepositoryError, match="does not have this digest"):
        copy_object(source, target, digest, Ways(reflink=False))
    assert protected == []


def test_a_file_that_the_kernel_protects_is_not_read(
    source: ObjectStore, target: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = source.put(CONTENT)
    path_of(source, digest).write_bytes(b"what the kernel says counts")
    monkeypatch.setattr(kernelverity, "measure", lambda fd, algorithm: digest)
    assert copy_object(source, target, digest, Ways(reflink=False)) == "hardlink"


def test_what_is_not_there(source: ObjectStore, target: ObjectStore) -> None:
    source.put(CONTENT)
    with pytest.raises(NotFoundError, match="missing"):
        copy_object(source, target, bytes(32), Ways())


def test_what_cannot_be_shared_is_copied(
    source: ObjectStore, target: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = source.put(CONTENT)
    monkeypatch.setattr(linux, "clone_file", lambda src, dst: False)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    ways = Ways()
    target._tmpfile = False  # link_fd is os.link too
    assert copy_object(source, target, digest, ways) == "copy"
    assert (ways.reflink, ways.hardlink) == (False, False)
    assert target.read(digest) == CONTENT


def test_a_target_for_reading_only(source: ObjectStore, target: ObjectStore) -> None:
    digest = source.put(CONTENT)
    target.writable = False
    with pytest.raises(RepositoryError, match="reading only"):
        copy_object(source, target, digest, Ways())
