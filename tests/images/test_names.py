"""Names of images: what they mean, that each means one thing, and that damage is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, RepositoryError, UsageError
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.splitstream import OCI_MANIFEST, SplitStreamWriter
from cfsrepo.images import names
from cfsrepo.images.imageinfo import image_info
from cfsrepo.images.names import ImageName
from cfsrepo.store import ocistreams, repository
from cfsrepo.store.repository import Repository
from tests.store.repository_helpers import add_image, oci_digest


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


def test_tags(repo: Repository) -> None:
    image = add_image(repo, "one")
    manifest = ocistreams.MANIFEST_PREFIX + str(image.manifest_digest)
    repo.tag("reg.example/a:1", manifest)
    assert repo.tags() == {"one": manifest, "reg.example/a:1": manifest}
    link = f"{repo.path}/streams/refs/oci/reg.example%2Fa:1"
    assert os.readlink(link) == f"../../{manifest}"
    repo.untag("reg.example/a:1")
    assert repo.tags() == {"one": manifest}
    with pytest.raises(NotFoundError, match="no such name"):
        repo.untag("reg.example/a:1")
    with pytest.raises(NotFoundError, match="no such stream"):
        repo.tag("x", "oci-manifest-sha256:0")


def test_resolve(repo: Repository) -> None:
    one = add_image(repo, "debian:12", b"one")
    two = add_image(repo, "debian:latest", b"two")
    alone = repo.add_image(b"an image file", "files/alone")
    assert one.manifest_digest is not None
    assert one.config_digest is not None
    for name in (
        "debian:12",
        one.manifest_digest,
        "@" + one.manifest_digest,
        one.manifest_digest[:20],
        "@" + one.manifest_digest[:20],
        one.manifest_digest.removeprefix("sha256:")[:10],
        one.config_digest,
        one.image_id,
        one.image_id[:12],
    ):
        assert names.resolve(repo, name) == one, name
    assert names.resolve(repo, "debian") == two, "a tag without its :latest"
    assert names.resolve(repo, "files/alone") == ImageName(alone, "files/alone")
    assert names.resolve(repo, alone[:8]).image_id == alone
    for name, message in (
        ("deb", "no such image"),
        ("debian:1", "no such image"),
        ("files/al", "no such image"),
        ("sha256:", "no such image"),
        ("nothing", "no such image"),
        ("", "no such image"),
        ("@", "no such image"),
    ):
        with pytest.raises(NotFoundError, match=message):
            names.resolve(repo, name)


def break_manifest(repo: Repository, image: ImageName) -> None:
    link = f"{repo.path}/streams/{ocistreams.MANIFEST_PREFIX}{image.manifest_digest}"
    Path(os.path.realpath(link)).write_bytes(b"damaged")


def test_a_damaged_image_is_an_error_and_never_another_image(repo: Repository) -> None:
    old = add_image(repo, "app-old", b"one")
    new = add_image(repo, "app:latest", b"two")
    break_manifest(repo, new)
    assert new.manifest_digest is not None
    for name in (
        "app:latest",
        "app",
        new.manifest_digest,
        "@" + new.manifest_digest,
        new.manifest_digest[:30],
        new.manifest_digest[7:30],
    ):
        with pytest.raises(RepositoryError, match=f"{name}.*: the image is damaged") as caught:
            names.resolve(repo, name)
        assert "fsck" in str(caught.value.hint)
    assert names.resolve(repo, "app-old") == old
    found, damaged = names.survey(repo)
    assert [image.name for image in found] == ["app-old", new.image_id]
    assert [(one.name, one.manifest_digest) for one in damaged] == [
        ("app:latest", new.manifest_digest)
    ]
    repo.untag("app:latest")
    assert [one.name for one in names.survey(repo)[1]] == [new.manifest_digest]


def test_a_tag_without_its_stream_is_a_damaged_image(repo: Repository) -> None:
    image = add_image(repo, "app")
    os.unlink(f"{repo.path}/streams/{ocistreams.MANIFEST_PREFIX}{image.manifest_digest}")
    with pytest.raises(RepositoryError, match="app: the image is damaged"):
        names.resolve(repo, "app")


def test_a_name_that_is_nearly_one_is_suggested(repo: Repository) -> None:
    add_image(repo, "app:1")
    with pytest.raises(NotFoundError) as caught:
        names.resolve(repo, "app")
    assert caught.value.hint == "did you mean app:1?"


def test_an_artifact_is_no_image(repo: Repository) -> None:
    content_id = ocistreams.MANIFEST_PREFIX + oci_digest(b"x")
    repo.put_stream(content_id, SplitStreamWriter(Algorithm.SHA256, OCI_MANIFEST).finish())
    repo.tag("sbom", content_id)
    with pytest.raises(NotFoundError, match="an artifact"):
        names.resolve(repo, "sbom")


def test_a_pull_between_two_readings_is_no_damage(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that comes while images are listed is there whole, or not yet."""
    real = Repository.streams

    def streams(self: Repository) -> dict[str, bytes]:
        found = real(self)
        monkeypatch.undo()
        add_image(self, "late", b"late")
        return found

    monkeypatch.setattr(Repository, "streams", streams)
    assert names.survey(repo)[1] == []
    assert [image.name for image in names.list_images(repo)] == ["late"]


# --- one name, one meaning -----------------------------------------------------------------------


def test_a_tag_takes_the_name_of_an_image_file(repo: Repository) -> None:
    repo.add_image(b"an image file", "app")
    image = add_image(repo, "app")
    assert names.resolve(repo, "app") == image
    assert repo.image_refs() == {}


def test_a_name_of_an_image_file_takes_the_name_of_a_tag(repo: Repository) -> None:
    add_image(repo, "reg.example/app")
    image_id = repo.add_image(b"an image file", "reg.example/app")
    assert names.resolve(repo, "reg.example/app") == ImageName(image_id, "reg.example/app")
    assert repo.tags() == {}


def test_untag_removes_a_name_of_whatever_kind(repo: Repository) -> None:
    image = add_image(repo, "app")
    image_id = repo.add_image(b"an image file")
    os.makedirs(f"{repo.path}/images/refs")
    os.symlink(f"../{image_id}", f"{repo.path}/images/refs/app")  # as another program can
    with pytest.raises(NotFoundError, match=r"is a tag of .* and a name of") as caught:
        names.resolve(repo, "app")
    assert "cfs untag app" in str(caught.value.hint)
    repo.untag("app")
    assert (repo.tags(), repo.image_refs()) == ({}, {})
    assert image.image_id in repo.images()
    with pytest.raises(NotFoundError, match="app: no such name"):
        repo.untag("app")


def test_setting_a_name_that_means_two_things_decides(repo: Repository) -> None:
    image = add_image(repo, "app")
    image_id = repo.add_image(b"an image file")
    os.makedirs(f"{repo.path}/images/refs")
    os.symlink(f"../{image_id}", f"{repo.path}/images/refs/app")
    repo.tag("app", ocistreams.MANIFEST_PREFIX + str(image.manifest_digest))
    assert names.resolve(repo, "app") == image


def test_a_name_that_somebody_sets_meanwhile_is_left(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that set one name to different kinds: the name does not get lost."""
    image = add_image(repo, None)
    image_id = repo.add_image(b"an image file")
    real = repository.refs.replace_link

    def replace_link(root: int, path: str, target: str) -> None:
        monkeypatch.undo()
        repo.name_image("app", image_id)
        real(root, path, target)

    monkeypatch.setattr(repository.refs, "replace_link", replace_link)
    repo.tag("app", ocistreams.MANIFEST_PREFIX + str(image.manifest_digest))
    assert repo.image_refs() == {"app": image_id}
    assert list(repo.tags()) == ["app"]


def test_a_directory_of_names_goes_with_its_last_name(repo: Repository) -> None:
    image_id = repo.add_image(b"an image file", "foo/bar/baz")
    repo.name_image("foo/other", image_id)
    repo.untag("foo/bar/baz")
    assert os.listdir(f"{repo.path}/images/refs/foo") == ["other"]
    repo.untag("foo/other")
    assert os.listdir(f"{repo.path}/images/refs") == []
    repo.name_image("foo", image_id)
    assert repo.image_refs() == {"foo": image_id}


def test_an_empty_directory_is_not_in_the_way_of_a_name(repo: Repository) -> None:
    image_id = repo.add_image(b"an image file")
    os.makedirs(f"{repo.path}/images/refs/foo/bar")
    repo.name_image("foo", image_id)
    assert repo.image_refs() == {"foo": image_id}


def test_names_that_are_in_each_others_way(repo: Repository) -> None:
    image_id = repo.add_image(b"an image file", "foo")
    with pytest.raises(UsageError, match="foo/bar: no other name can begin with 'foo/'"):
        repo.name_image("foo/bar", image_id)
    repo.name_image("up/down", image_id)
    with pytest.raises(UsageError, match="up: other names begin with 'up/'"):
        repo.name_image("up", image_id)
    assert sorted(repo.image_refs()) == ["foo", "up/down"]


def test_no_link_is_followed_where_a_name_is_made(repo: Repository, tmp_path: Path) -> None:
    image_id = repo.add_image(b"an image file", "some/name")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", f"{repo.path}/images/refs/away")
    with pytest.raises(UsageError):
        repo.name_image("away/name", image_id)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_several_names_of_one_image_are_not_ambiguous(repo: Repository) -> None:
    one = add_image(repo, "app:1")
    repo.tag("app:2", ocistreams.MANIFEST_PREFIX + str(one.manifest_digest))
    assert names.resolve(repo, one.image_id[:12]).image_id == one.image_id


def test_list_images_has_a_line_for_each_name(repo: Repository) -> None:
    one = add_image(repo, "app:1", b"one")
    untagged = add_image(repo, "gone", b"two")
    repo.untag("gone")
    repo.name_image("named", one.image_id)
    bare = repo.add_image(b"bare")
    assert [image.name for image in names.list_images(repo)][:2] == ["app:1", "named"]
    assert {image.image_id for image in names.list_images(repo)[2:]} == {untagged.image_id, bare}


def test_damaged_and_foreign_manifests_do_not_stop_the_list(repo: Repository) -> None:
    one = add_image(repo, "one")
    repo.put_stream(ocistreams.MANIFEST_PREFIX + oci_digest(b"x"), b"no stream")
    writer = SplitStreamWriter(Algorithm.SHA256, OCI_MANIFEST)  # an artifact: no config
    repo.put_stream(ocistreams.MANIFEST_PREFIX + oci_digest(b"y"), writer.finish())
    assert names.list_images(repo) == [one]


def test_information_on_all_images_lists_the_directory_once(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each image: a thousand images would cost a million links."""
    for number in range(5):
        add_image(repo, f"image{number}")
    listings = []
    real = Repository.images

    def counted(self: Repository) -> dict[str, bytes]:
        listings.append(self)
        return real(self)

    monkeypatch.setattr(Repository, "images", counted)
    images = names.list_images(repo)
    assert len([image_info(repo, image) for image in images]) == 5
    assert len(listings) == 1
