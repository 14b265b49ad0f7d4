"""Repairing: what is damaged is made good from a source, or put to quarantine."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, UsageError
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images import names
from cfsrepo.oci.importer import PulledImage, pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.store import ocistreams
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import fsck
from cfsrepo.upkeep.findings import Kind
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.repair import repair
from tests.oci.oci_builder import LayoutBuilder, base, directory, hardlink, member
from tests.store.repository_helpers import add_files, add_image
from tests.upkeep.damage import content_digest, flip, only, path_of

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


XATTR = ((b"SCHILY.xattr.user.note", b"kept by one mode only"),)
LOWER = base(
    directory(b"d"),
    member(b"d/a", A),
    hardlink(b"d/hard", b"d/a"),
    member(b"d/small", b"inline"),
    member(b"usr/b", B, pax=XATTR),
    member(b"overwritten", b"o" * 900),
)
UPPER = base(member(b"overwritten", C), member(b"big", b"0123456789abcdef" * 100_000))


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(str(tmp_path / "layout"))
    builder.image(LOWER, UPPER, ref="one")
    builder.image(LOWER, ref="two", packing="zstd")
    return builder


@pytest.fixture
def pulled(repo: Repository, layout: LayoutBuilder) -> list[PulledImage]:
    return [pull(repo, layout.source(ref), ref) for ref in ("one", "two")]


def everything(repo: Repository) -> dict[str, bytes | str]:
    """All links, and all objects with their content."""
    found: dict[str, bytes | str] = {}
    for path in Path(repo.path).rglob("*"):
        name = str(path.relative_to(repo.path))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def all_objects(repo: Repository) -> list[bytes]:
    return [
        bytes.fromhex(prefix + name)
        for prefix in repo.objects.prefixes()
        for name in sorted(os.listdir(f"{repo.objects.path}/{prefix}"))
    ]


Damage = Callable[[Repository, bytes], None]


def remove(repo: Repository, digest: bytes) -> None:
    path_of(repo, digest).unlink()


def truncate(repo: Repository, digest: bytes) -> None:
    os.truncate(path_of(repo, digest), 10)


@pytest.mark.parametrize("damage", [flip, remove, truncate])
def test_each_object_is_repaired_from_the_layout(
    repo: Repository, layout: LayoutBuilder, pulled: list[PulledImage], damage: Damage
) -> None:
    """Files, streams, documents, image files: one after the other, and nothing else changes."""
    before = everything(repo)
    for digest in all_objects(repo):
        damage(repo, digest)
        checked = fsck.check(repo)
        assert checked.bad_objects() == {digest}
        assert checked.problems[0].needs, "somebody needs every object"
        result = repair(repo, checked, [f"oci:{layout.directory}"])
        assert result.restored == [f"objects/{object_path(digest)}"]
        assert (result.quarantined, result.left) == ([], [])
        assert everything(repo) == before


@pytest.mark.parametrize("damage", [flip, remove])
def test_all_objects_at_once(
    repo: Repository, layout: LayoutBuilder, pulled: list[PulledImage], damage: Damage
) -> None:
    before = everything(repo)
    for digest in all_objects(repo):
        damage(repo, digest)
    result = repair(repo, fsck.check(repo), [f"oci:{layout.directory}"])
    assert result.left == []
    assert everything(repo) == before
    assert fsck.check(repo).clean


def test_an_image_with_all_xattrs_is_made_again_as_it_was(
    repo: Repository, layout: LayoutBuilder
) -> None:
    image = pull(repo, layout.source("one"), "one", xattrs=XattrMode.ALL)
    digest = bytes.fromhex(image.image_id)
    for damage in (flip, remove):
        damage(repo, digest)
        result = repair(repo, fsck.check(repo), [layout.source("one")])
        assert result.left == []
        assert names.resolve(repo, "one").image_id == image.image_id
        assert fsck.check(repo).clean


def test_links_are_made_again_from_the_layout(
    repo: Repository, layout: LayoutBuilder, pulled: list[PulledImage]
) -> None:
    before = everything(repo)
    for content_id in (
        f"{ocistreams.MANIFEST_PREFIX}{pulled[0].manifest_digest}",
        f"{ocistreams.CONFIG_PREFIX}{pulled[0].config_digest}",
    ):
        link = f"{repo.path}/streams/{content_id}"
        os.unlink(link)
        os.symlink("../nowhere", link)
    checked = fsck.check(repo)
    assert {problem.kind for problem in checked.problems} >= {Kind.BAD_LINK}
    assert repair(repo, checked, [layout.source("one")]).left == []
    assert everything(repo) == before


@pytest.mark.parametrize("damage", [flip, remove])
def test_repair_from_another_repository(
    repo: Repository,
    tmp_path: Path,
    pulled: list[PulledImage],
    layout: LayoutBuilder,
    damage: Damage,
) -> None:
    with Repository.init(str(tmp_path / "other")) as other:
        for ref in ("one", "two"):
            pull(other, layout.source(ref), ref)
    before = everything(repo)
    for digest in all_objects(repo):
        damage(repo, digest)
    result = repair(repo, fsck.check(repo), [str(tmp_path / "other")])
    assert result.left == []
    assert everything(repo) == before


def test_a_lost_stream_comes_from_another_repository(
    repo: Repository, tmp_path: Path, layout: LayoutBuilder, pulled: list[PulledImage]
) -> None:
    with Repository.init(str(tmp_path / "other")) as other:
        for ref in ("one", "two"):
            pull(other, layout.source(ref), ref)
    before = everything(repo)
    for link in os.listdir(f"{repo.path}/streams"):
        if link != "refs":
            os.unlink(f"{repo.path}/streams/{link}")
    checked = fsck.check(repo)
    assert {problem.kind for problem in checked.problems} == {Kind.BAD_NAME}
    assert repair(repo, checked, [str(tmp_path / "other")]).left == []
    assert everything(repo) == before


def test_only_bad_layers_are_unpacked(
    repo: Repository,
    layout: LayoutBuilder,
    pulled: list[PulledImage],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flip(repo, content_digest(repo, C))
    opened = []
    real = layout_module().Layout.open_blob

    def spy(self: object, descriptor: object) -> object:
        opened.append(descriptor)
        return real(self, descriptor)  # type: ignore[arg-type]

    monkeypatch.setattr(layout_module().Layout, "open_blob", spy)
    repair(repo, fsck.check(repo), [layout.source("one")])
    layers = [d for d in opened if "layer" in d.media_type]  # type: ignore[attr-defined]
    assert len(layers) == 1


def layout_module() -> object:
    from cfsrepo.oci.transports import imagelayout as module

    return module


def test_what_cannot_be_repaired_is_put_to_quarantine(repo: Repository) -> None:
    add_files(repo, "one", {"a": A, "b": B})
    digest = content_digest(repo, A)
    flip(repo, digest)
    damaged = path_of(repo, digest).read_bytes()
    stray = Path(repo.objects.path, "00", "README")
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"stray")
    result = repair(repo, fsck.check(repo))
    assert sorted(result.quarantined) == sorted(
        [f"objects/{object_path(digest)}", "objects/00/README"]
    )
    assert [problem.digest for problem in result.left] == [digest]
    quarantine = Path(repo.path, "cfsfuse", "quarantine")
    assert (quarantine / digest.hex()).read_bytes() == damaged
    assert (quarantine / "00-README").read_bytes() == b"stray"
    assert only(fsck.check(repo)).kind is Kind.MISSING
    # What was moved does not stand in the way of storing it again.
    repo.objects.put(A)
    assert fsck.check(repo).clean
    collect(repo)
    assert (quarantine / digest.hex()).exists()


def test_a_source_that_is_damaged_itself(
    repo: Repository, tmp_path: Path, layout: LayoutBuilder, pulled: list[PulledImage]
) -> None:
    with Repository.init(str(tmp_path / "other")) as other:
        pull(other, layout.source("one"), "one")
        flip(other, content_digest(other, A), 7)
    flip(repo, content_digest(repo, A))
    result = repair(repo, fsck.check(repo), [str(tmp_path / "other")])
    assert len(result.left) == 1
    assert not repo.objects.has(content_digest(repo, A))


def test_several_sources_after_each_other(
    repo: Repository, tmp_path: Path, layout: LayoutBuilder, pulled: list[PulledImage]
) -> None:
    Repository.init(str(tmp_path / "empty")).close()
    flip(repo, content_digest(repo, A))
    sources = [str(tmp_path / "empty"), layout.source("two")]
    assert repair(repo, fsck.check(repo), sources).left == []


def test_sources_that_do_not_fit(repo: Repository, tmp_path: Path, layout: LayoutBuilder) -> None:
    add_image(repo, "one")
    flip(repo, next(iter(repo.images().values())))
    checked = fsck.check(repo)
    with pytest.raises(NotFoundError, match="has no image that is in"):
        repair(repo, checked, [layout.source("one")])
    with pytest.raises(NotFoundError, match="no such repository"):
        repair(repo, checked, [str(tmp_path / "absent")])
    Repository.init(str(tmp_path / "sha512"), algorithm=Algorithm.SHA512).close()
    with pytest.raises(UsageError, match="sha512"):
        repair(repo, checked, [str(tmp_path / "sha512")])


class AllDoubted:
    def object(self, digest: bytes) -> bool:
        return True

    def stream(self, content_id: str) -> bool:
        return True


def test_the_file_is_never_absent_while_it_is_replaced(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(repo, "one", {"a": A})
    digest = content_digest(repo, A)
    flip(repo, digest)
    removed: list[str] = []
    monkeypatch.setattr(os, "unlink", lambda path, **kwargs: removed.append(path))
    with repo.doubting(AllDoubted()) as doubting:
        assert doubting.objects.size(digest) is None
        assert doubting.objects.put(A) == digest
    assert repo.objects.read(digest) == A
    assert removed == []


def test_flipped_bytes_in_a_hundred_objects(repo: Repository, layout: LayoutBuilder) -> None:
    source = random.Random(5)
    files = [
        member(b"f%d" % number, source.randbytes(source.randrange(65, 20_000)))
        for number in range(150)
    ]
    layout.image(base(*files[:75]), base(*files[75:]), ref="many")
    pull(repo, layout.source("many"), "many")
    before = everything(repo)
    wanted = set(source.sample(all_objects(repo), 100))
    for digest in wanted:
        flip(repo, digest, source.randrange(path_of(repo, digest).stat().st_size))
    checked = fsck.check(repo)
    assert checked.bad_objects() == wanted
    assert all(problem.needs or problem.streams for problem in checked.problems)
    assert len(repair(repo, checked, [layout.source("many")]).restored) == 100
    assert everything(repo) == before
