"""Checking: damage is found and attributed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import CfsError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.splitstream import OCI_MANIFEST, SplitStreamWriter
from cfsrepo.images import names
from cfsrepo.store import kernelverity, ocistreams, pins
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import du, fsck
from cfsrepo.upkeep.findings import Kind
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.repair import repair
from tests.store.repository_helpers import add_files, make_image_file
from tests.upkeep.damage import content_digest, flip, only, path_of

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


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


# --- pins ----------------------------------------------------------------------------------------


def test_a_damaged_pin_is_told_with_its_remedy(repo: Repository) -> None:
    image = add_files(repo, "one", {"a": A})
    pin = pins.pin_process(repo, image.image_id, "/mnt/x")
    Path(repo.path, pins.path_of(pin)).write_bytes(b"")
    problem = only(fsck.check(repo))
    assert (problem.kind, problem.path) == (Kind.BAD_PIN, f"cfsfuse/pins/{pin.pin_id}")
    assert f"'cfs unpin {pin.pin_id}' removes it" in problem.detail
    assert repair(repo, fsck.check(repo)).left[0].kind is Kind.BAD_PIN
    assert pins.read(repo) != [], "what it may protect stays protected"
