"""Space: amounts that add up and say what a collection then frees."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.store import pins
from cfsrepo.store.objectcopy import Ways, copy_object
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import du
from cfsrepo.upkeep.gc import collect
from tests.store.repository_helpers import add_files, make_image_file

A, B, C = b"a" * 50_000, b"b" * 60_000, b"c" * 70_000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


def allocated(repo: Repository) -> int:
    return sum(
        path.stat().st_blocks * 512 for path in Path(repo.objects.path).rglob("*") if path.is_file()
    )


def disk_of(repo: Repository, content: bytes) -> int:
    digest = fsverity.digest(content, repo.algorithm)
    return Path(repo.objects.path, object_path(digest)).stat().st_blocks * 512


def test_an_empty_repository(repo: Repository) -> None:
    assert du.usage(repo).disk == 0


def test_shared_and_unique(repo: Repository) -> None:
    add_files(repo, "one", {"a": A, "again": A, "b": B, "small": b"12345"})
    add_files(repo, "two", {"b": B, "c": C})
    repo.objects.put(b"garbage" * 1000)
    found = du.usage(repo)
    one, two = found.images
    assert (one.names, two.names) == (["one"], ["two"])
    assert one.apparent == 2 * len(A) + len(B) + 5
    assert one.files == 4
    assert one.shared == two.shared == found.shared == disk_of(repo, B)
    assert one.unique >= disk_of(repo, A)
    assert one.unique + two.unique == found.unique
    assert found.disk == allocated(repo)
    assert found.garbage == disk_of(repo, b"garbage" * 1000)
    assert found.freed == found.garbage == collect(repo).disk


def test_names_of_one_image_are_one_line(repo: Repository) -> None:
    image = add_files(repo, "one", {"a": A})
    repo.tag("again", f"oci-manifest-{image.manifest_digest}")
    (found,) = du.usage(repo).images
    assert found.names == ["again", "one"]
    assert found.shared == 0


def test_image_files_by_name_and_in_use(repo: Repository) -> None:
    repo.add_image(make_image_file({"a": A}, repo), "alone")
    untagged = add_files(repo, "gone", {"c": C})
    repo.untag("gone")
    pins.pin_person(repo, untagged.image_id)
    found = du.usage(repo)
    assert sorted(usage.names for usage in found.images) == [[], ["alone"]]
    assert all(usage.unique > 50_000 for usage in found.images)
    assert found.garbage > 0, "the layers of the pinned image"
    assert found.garbage == collect(repo).disk
    assert du.usage(repo).garbage == 0


def test_what_another_repository_shares_is_not_freed(repo: Repository, tmp_path: Path) -> None:
    digest = repo.objects.put(A)
    alone = repo.objects.put(B)
    with Repository.init(str(tmp_path / "other")) as other:
        copy_object(repo.objects, other.objects, digest, Ways(reflink=False))
    found = du.usage(repo)
    assert found.garbage == disk_of(repo, A) + disk_of(repo, B)
    assert found.freed == disk_of(repo, B)
    result = collect(repo)
    assert (result.objects, result.size) == (2, len(A) + len(B))
    assert result.disk == found.freed
    assert not repo.objects.has(alone)


def test_other_streams_and_private_files(repo: Repository) -> None:
    repo.put_stream("top", _stream(repo))
    repo.set_stream_ref("other/top", "top")
    Path(repo.private_directory("quarantine"), "x").write_bytes(b"x" * 10_000)
    found = du.usage(repo)
    assert found.other == allocated(repo)
    assert found.private >= 10_000


def _stream(repo: Repository) -> bytes:
    from cfsrepo.formats.splitstream import SplitStreamWriter

    writer = SplitStreamWriter(repo.algorithm, 0)
    writer.external(repo.objects.put(A), len(A))
    return writer.finish()
