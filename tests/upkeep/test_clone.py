"""Cloning: the same images in another repository, by whatever way the data gets there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfsrepo.errors import RepositoryError, UsageError
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images import names
from cfsrepo.store.objectcopy import Ways
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import fsck
from cfsrepo.upkeep.clone import clone
from cfsrepo.upkeep.gc import collect
from tests.store.repository_helpers import add_files, make_image_file

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    repo = Repository.init(str(tmp_path / "source"))
    add_files(repo, "one", {"a": A, "b": B})
    add_files(repo, "reg.example/two:2", {"b": B, "c": C})
    add_files(repo, None, {"gone": b"untagged" * 100})
    repo.add_image(make_image_file({"a": A}, repo), "files/alone")
    return repo


@pytest.fixture
def target(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "target"))


def links(repo: Repository) -> dict[str, str]:
    return {
        str(path.relative_to(repo.path)): os.readlink(path)
        for path in Path(repo.path).rglob("*")
        if path.is_symlink()
    }


@pytest.mark.parametrize(
    ("ways", "word"),
    [(Ways(), None), (Ways(False, True), "hardlink"), (Ways(False, False), "copy")],
)
def test_all_that_has_a_name(
    source: Repository, target: Repository, ways: Ways, word: str | None
) -> None:
    result = clone(source, target, ways=ways)
    collect(source)
    assert links(target) == links(source)
    assert fsck.check(target).clean
    assert collect(target, dry_run=True).objects == 0
    assert result.images == 3
    assert sum(result.ways.values()) == result.objects
    if word is not None:
        assert set(result.ways) == {word}
    again = clone(source, target, ways=ways)
    assert set(again.ways) == {"present"}
    assert links(target) == links(source)


def test_hard_links_are_the_same_files(source: Repository, target: Repository) -> None:
    clone(source, target, ways=Ways(False, True))
    digest = source.objects.put(A)
    one, two = (os.stat(f"{r.objects.path}/{object_path(digest)}") for r in (source, target))
    assert one.st_ino == two.st_ino
    assert not [name for name in os.listdir(target.objects.path) if len(name) != 2]


def test_only_some_images(source: Repository, target: Repository) -> None:
    clone(source, target, [names.resolve(source, "one")])
    assert list(target.tags()) == ["one"]
    assert target.image_refs() == {}
    assert fsck.check(target).clean
    clone(source, target, [names.resolve(source, "files/alone")])
    assert list(target.image_refs()) == ["files/alone"]
    assert fsck.check(target).clean


@pytest.mark.parametrize("ways", [Ways(), Ways(False, True), Ways(False, False)])
@pytest.mark.parametrize("damage", [A.upper(), A[:100]])
def test_damage_is_not_copied(
    source: Repository, target: Repository, ways: Ways, damage: bytes
) -> None:
    digest = source.objects.put(A)
    Path(source.objects.path, object_path(digest)).write_bytes(damage)
    with pytest.raises(RepositoryError, match="does not have this digest"):
        clone(source, target, ways=ways)
    assert links(target) == {}
    assert not target.objects.has(digest)


@pytest.mark.parametrize("ways", [Ways(), Ways(False, True), Ways(False, False)])
def test_a_good_object_of_the_target_survives_a_damaged_source(
    source: Repository, target: Repository, ways: Ways
) -> None:
    digest = source.objects.put(A)
    target.objects.put(A)
    os.truncate(Path(source.objects.path, object_path(digest)), 100)
    clone(source, target, ways=ways)
    assert target.objects.read(digest) == A
    assert fsck.check(target).clean


def test_a_tag_without_its_stream_is_an_error_before_anything_is_copied(
    source: Repository, target: Repository
) -> None:
    os.unlink(f"{source.path}/streams/{source.tags()['one']}")
    with pytest.raises(RepositoryError, match="one: the image is damaged"):
        clone(source, target)
    assert links(target) == {}


def test_another_algorithm_is_refused(source: Repository, tmp_path: Path) -> None:
    with Repository.init(str(tmp_path / "other"), algorithm=Algorithm.SHA512) as other:
        with pytest.raises(UsageError, match="sha512"):
            clone(source, other)


def test_a_source_that_is_only_read(source: Repository, target: Repository) -> None:
    source.writable = source.objects.writable = False
    clone(source, target)
    assert len(target.tags()) == 2
