"""Checking and repairing: damage is found, attributed, and made good from a source."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import CfsError, NotFoundError, UsageError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.splitstream import OCI_MANIFEST, SplitStreamWriter
from cfsrepo.images import names
from cfsrepo.oci.importer import PulledImage, pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.store import kernelverity, ocistreams
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import du, fsck
from cfsrepo.upkeep.findings import Checked, Kind, Problem
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.repair import repair
from tests.oci.oci_builder import LayoutBuilder, base, directory, hardlink, member
from tests.store.repository_helpers import add_files, add_image, make_image_file

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


def path_of(repo: Repository, digest: bytes) -> Path:
    return Path(repo.objects.path, object_path(digest))


def flip(repo: Repository, digest: bytes, at: int | None = None) -> None:
    """Flip a bit of an object."""
    path = path_of(repo, digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x10
    path.write_bytes(data)


def content_digest(repo: Repository, content: bytes) -> bytes:
    return fsverity.digest(content, repo.algorithm)


def only(checked: Checked) -> Problem:
    (problem,) = checked.problems
    return problem


# --- checking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_sound_repository_is_clean(tmp_path: Path, algorithm: Algorithm) -> None:
    with Repository.init(str(tmp_path / "r"), algorithm=algorithm) as repo:
        assert fsck.check(repo).clean
        add_files(repo, "one", {"a": A, "dir/b": B, "small": b"x"})
        add_files(repo, "two", {"a": A, "c": C})
        repo.add_image(make_image_file({"b": B}, repo), "alone")
        checked = fsck.check(repo)
        assert checked.problems == []
        assert (checked.streams, checked.images, checked.names) == (6, 3, 3)
        # three files, two manifests and two configs; streams and images were read by themselves
        assert checked.objects == 7
        assert fsck.check(repo, metadata_only=True).objects == 0


def test_a_damaged_file_is_told_with_its_paths(repo: Repository) -> None:
    one = add_files(repo, "one", {"a": A, "dir/copy of a": A, "b": B})
    two = add_files(repo, "two", {"z": A})
    repo.tag("again", f"{ocistreams.MANIFEST_PREFIX}{two.manifest_digest}")
    digest = content_digest(repo, A)
    flip(repo, digest)
    problem = only(fsck.check(repo))
    assert problem.kind is Kind.DAMAGED
    assert problem.path == f"objects/{object_path(digest)}"
    assert problem.digest == digest
    assert len(problem.streams) == 2
    assert {(need.name, need.image_id, need.paths) for need in problem.needs} == {
        ("one", one.image_id, (b"/a", b"/dir/copy of a")),
        ("two", two.image_id, (b"/z",)),
        ("again", two.image_id, (b"/z",)),
    }
    assert fsck.check(repo, metadata_only=True).clean, "its content was not looked at"


@pytest.mark.parametrize("metadata_only", [True, False])
def test_a_missing_file_is_told_with_its_paths(repo: Repository, metadata_only: bool) -> None:
    add_files(repo, "one", {"a": A, "b": B})
    digest = content_digest(repo, A)
    path_of(repo, digest).unlink()
    problem = only(fsck.check(repo, metadata_only=metadata_only))
    assert problem.kind is Kind.MISSING
    assert [(need.name, need.paths) for need in problem.needs] == [("one", (b"/a",))]


@pytest.mark.parametrize("metadata_only", [True, False])
def test_a_cut_file_is_noticed_by_its_size(repo: Repository, metadata_only: bool) -> None:
    add_files(repo, "one", {"a": A})
    digest = content_digest(repo, A)
    os.truncate(path_of(repo, digest), 100)
    problem = only(fsck.check(repo, metadata_only=metadata_only))
    assert (problem.kind, problem.digest) == (Kind.DAMAGED, digest)


@pytest.mark.parametrize("how", ["damaged", "missing"])
@pytest.mark.parametrize("prefix", ["oci-manifest-", "oci-config-", "oci-layer-"])
def test_a_bad_stream_is_told_with_its_image(repo: Repository, how: str, prefix: str) -> None:
    image = add_files(repo, "one", {"a": A})
    add_files(repo, "two", {"b": B})
    content_id, digest = next(
        (name, digest)
        for name, digest in repo.streams().items()
        if name.startswith(prefix) and name in _streams_of(repo, str(image.manifest_digest))
    )
    if how == "damaged":
        flip(repo, digest)
    else:
        path_of(repo, digest).unlink()
    for metadata_only in (True, False):
        problem = only(fsck.check(repo, metadata_only=metadata_only))
        assert problem.kind == how
        assert problem.digest == digest
        assert content_id in problem.streams
        assert [(need.name, need.paths) for need in problem.needs] == [("one", ())]


def _streams_of(repo: Repository, manifest_digest: str) -> set[str]:
    manifest = ocistreams.MANIFEST_PREFIX + manifest_digest
    found = {manifest}
    for key in repo.open_stream(manifest).named_refs:
        config = key.startswith(ocistreams.CONFIG_REF)
        prefix = ocistreams.CONFIG_PREFIX if config else ocistreams.LAYER_PREFIX
        found.add(prefix + key.removeprefix(ocistreams.CONFIG_REF))
    return found


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_bad_image_file_is_told(repo: Repository, how: str) -> None:
    image = add_files(repo, "one", {"a": A})
    digest = bytes.fromhex(image.image_id)
    if how == "damaged":
        flip(repo, digest)
    else:
        path_of(repo, digest).unlink()
    for metadata_only in (True, False):
        problem = only(fsck.check(repo, metadata_only=metadata_only))
        assert problem.kind == how
        assert [need.name for need in problem.needs] == ["one"]


def test_a_document_that_is_not_the_one_of_its_name(repo: Repository) -> None:
    image = add_files(repo, "one", {"a": A})
    writer = SplitStreamWriter(repo.algorithm, OCI_MANIFEST)
    writer.external(repo.objects.put(b"{} another manifest" * 10), 190)
    content_id = f"{ocistreams.MANIFEST_PREFIX}{image.manifest_digest}"
    repo.put_stream(content_id, writer.finish())
    problem = only(fsck.check(repo))
    assert (problem.kind, problem.path) == (Kind.BAD_STREAM, f"streams/{content_id}")


def test_what_has_its_digest_and_is_no_stream_or_image(repo: Repository) -> None:
    repo.put_stream("oci-layer-x", b"no stream" * 20)
    image_id = repo.add_image(b"no image" * 1000)
    found = {(problem.kind, problem.path) for problem in fsck.check(repo).problems}
    assert found == {
        (Kind.BAD_STREAM, "streams/oci-layer-x"),
        (Kind.BAD_IMAGE, f"images/{image_id}"),
    }


def test_an_image_that_lies_about_a_size(repo: Repository) -> None:
    digest = repo.objects.put(A)
    data = bytearray(make_image_file({"a": A}, repo))
    size = len(A).to_bytes(4, "little")
    at = data.index(size)
    data[at : at + 4] = (len(A) + 1).to_bytes(4, "little")
    image_id = repo.add_image(bytes(data))
    problem = only(fsck.check(repo))
    assert (problem.kind, problem.path) == (Kind.BAD_IMAGE, f"images/{image_id}")
    assert object_path(digest) in problem.detail


def test_links_and_names(repo: Repository) -> None:
    image = add_files(repo, "one", {"a": A})
    os.symlink("../nowhere", f"{repo.path}/streams/foreign")
    target = f"../objects/{object_path(bytes.fromhex(image.image_id))}"
    os.symlink(target, f"{repo.path}/images/{'0' * 64}")
    os.symlink("../../oci-manifest-gone", f"{repo.path}/streams/refs/oci/gone")
    os.makedirs(f"{repo.path}/images/refs")
    os.symlink("../" + "1" * 64, f"{repo.path}/images/refs/gone")
    for path in ("streams/file", "images/file", "streams/refs/file", "objects/00/file"):
        os.makedirs(os.path.dirname(f"{repo.path}/{path}"), exist_ok=True)
        Path(repo.path, path).write_bytes(b"")
    found = {(problem.kind, problem.path) for problem in fsck.check(repo).problems}
    assert found == {
        (Kind.BAD_LINK, "streams/foreign"),
        (Kind.BAD_LINK, f"images/{'0' * 64}"),
        (Kind.BAD_NAME, "streams/refs/oci/gone"),
        (Kind.BAD_NAME, "images/refs/gone"),
        (Kind.STRAY, "streams/file"),
        (Kind.STRAY, "images/file"),
        (Kind.STRAY, "streams/refs/file"),
        (Kind.STRAY, "objects/00/file"),
    }


def test_an_unreadable_object(repo: Repository) -> None:
    add_files(repo, "one", {"a": A})
    path = path_of(repo, content_digest(repo, A))
    path.unlink()
    path.symlink_to("loop")
    (path.parent / "loop").symlink_to("loop")
    kinds = {problem.kind for problem in fsck.check(repo).problems}
    assert Kind.UNREADABLE in kinds


def test_required_protection_is_checked(repo: Repository) -> None:
    add_files(repo, "one", {"a": A})
    repo.policy = VerityPolicy.REQUIRE
    found = {problem.path for problem in fsck.check(repo).problems}
    assert "meta.json" in found
    assert f"objects/{object_path(content_digest(repo, A))}" in found


def test_what_the_kernel_protects_is_measured_and_read_only_when_asked(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(repo, "one", {"a": A})
    digest = content_digest(repo, A)
    flip(repo, digest)  # on disk, under the kernel's protection: only reading finds it
    monkeypatch.setattr(
        kernelverity,
        "measure",
        lambda fd, algorithm: bytes.fromhex(
            "".join(os.readlink(f"/proc/self/fd/{fd}").rsplit("/", 2)[-2:])
        ),
    )
    real = fsverity.digest_fd

    def kernel_read(fd: int, algorithm: Algorithm) -> bytes:
        if real(fd, algorithm) != kernelverity.measure(fd, algorithm):
            raise OSError(5, "Input/output error")
        return real(fd, algorithm)

    monkeypatch.setattr(fsverity, "digest_fd", kernel_read)
    assert fsck.check(repo, workers=1).clean
    problem = only(fsck.check(repo, deep=True, workers=1))
    assert (problem.kind, problem.digest) == (Kind.UNREADABLE, digest)


def test_only_what_an_image_needs(repo: Repository) -> None:
    one = add_files(repo, "one", {"a": A, "b": B})
    two = add_files(repo, "two", {"b": B, "c": C})
    flip(repo, content_digest(repo, C))
    assert fsck.check(repo, [one]).clean
    problem = only(fsck.check(repo, [two]))
    assert problem.digest == content_digest(repo, C)
    alone = names.resolve(repo, repo.add_image(make_image_file({"c": C}, repo), "alone"))
    assert len(fsck.check(repo, [alone]).problems) == 1
    path_of(repo, content_digest(repo, A)).unlink()
    assert only(fsck.check(repo, [one])).kind is Kind.MISSING


def test_nothing_is_changed(repo: Repository) -> None:
    add_files(repo, "one", {"a": A})
    flip(repo, content_digest(repo, A))
    before = {path: os.lstat(path).st_ctime_ns for path in Path(repo.path).rglob("*")}
    fsck.check(repo)
    assert {path: os.lstat(path).st_ctime_ns for path in Path(repo.path).rglob("*")} == before


def test_no_worker_and_many_find_the_same(repo: Repository) -> None:
    add_files(repo, "one", {f"{number}": b"%d" % number * 1000 for number in range(200)})
    for number in (3, 50, 199):
        flip(repo, content_digest(repo, b"%d" % number * 1000))
    one = {problem.path for problem in fsck.check(repo, workers=1).problems}
    many = {problem.path for problem in fsck.check(repo, workers=4).problems}
    assert one == many
    assert len(one) == 3


# --- repairing -----------------------------------------------------------------------------------

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


# --- hostile content -----------------------------------------------------------------------------


def mutated(data: bytes, draw: st.DataObject) -> bytes:
    """Some bytes changed, perhaps cut."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        at = draw.draw(st.integers(0, len(changed) - 1))
        changed[at] = draw.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 4)))
    if draw.draw(st.integers(0, 4)) == 0:
        del changed[draw.draw(st.integers(1, len(changed))) :]
    return bytes(changed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hostile_streams_and_images_are_findings_not_failures(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    """Content that has its digest and lies in every other way: all that reads it says so."""
    with Repository.init(str(tmp_path_factory.mktemp("hostile"))) as repo:
        image = add_files(repo, "one", {"a": A, "dir/b": B, "small": b"x"})
        for content_id, digest in repo.streams().items():
            if draw.draw(st.booleans()):
                data = mutated(repo.objects.read(digest), draw)
                repo.publish({content_id: repo.objects.put(data)})
        data = mutated(repo.objects.read(bytes.fromhex(image.image_id)), draw)
        repo.add_image(data, "hostile")
        fsck.check(repo, workers=1)
        names.list_images(repo)
        for work in (collect, du.usage):
            with contextlib.suppress(CfsError):
                work(repo)
