"""A repository: opening, publishing, names, locks."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError, RepositoryError, SystemFailure, UsageError, VerityError
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_LAYER, SplitStreamWriter
from cfsrepo.images import names
from cfsrepo.store import kernelverity, objects, repository
from cfsrepo.store.repository import Repository, link_digest
from cfsrepo.system import linux
from tests.store.repository_helpers import add_image


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


def test_init_makes_what_cfsctl_makes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "repo"
    with Repository.init(str(path)) as repo:
        assert repo.algorithm is Algorithm.SHA256
        assert repo.policy is VerityPolicy.TRY
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert sorted(os.listdir(path)) == ["cfsfuse", "meta.json"]
    assert stat.S_IMODE((path / "meta.json").stat().st_mode) == 0o644
    assert (path / "cfsfuse" / "verity").read_text() == "try\n"


@pytest.mark.parametrize("policy", [VerityPolicy.TRY, VerityPolicy.OFF])
def test_init_again_opens_the_same_and_refuses_another(
    tmp_path: Path, policy: VerityPolicy
) -> None:
    path = str(tmp_path / "repo")
    Repository.init(path, verity=policy).close()
    with Repository.init(path, verity=policy) as repo:
        assert repo.policy is policy
    with pytest.raises(UsageError, match="is a repository already"):
        Repository.init(path, algorithm=Algorithm.SHA512, verity=policy)
    with pytest.raises(UsageError, match=f"policy '{policy}'"):
        Repository.init(
            path, verity={VerityPolicy.TRY: VerityPolicy.OFF}.get(policy, VerityPolicy.TRY)
        )


def test_init_refuses_a_directory_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("else")
    with pytest.raises(UsageError, match="neither empty nor a repository"):
        Repository.init(str(tmp_path))
    assert os.listdir(tmp_path) == ["something"]


def test_init_goes_on_after_one_that_was_killed(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    os.rename(tmp_path / "meta.json", tmp_path / "meta.json.new")
    with pytest.raises(NotFoundError, match="no repository"):
        Repository.open(str(tmp_path))
    Repository.init(str(tmp_path)).close()
    assert sorted(os.listdir(tmp_path)) == ["cfsfuse", "meta.json"]


def test_init_takes_an_empty_directory(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    assert (tmp_path / "meta.json").exists()


def test_a_failed_init_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    path = tmp_path / "repo"
    with pytest.raises(VerityError):
        Repository.init(str(path), verity=VerityPolicy.REQUIRE)
    assert not path.exists()


def interleaved(monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> None:
    """Have `between` happen once, after an `init` made the directory and before it has the lock."""
    real = linux.lock_exclusive
    todo = [between]

    def lock(fd: int, *, wait: bool = True) -> bool:
        if todo:
            todo.pop()()
        return real(fd, wait=wait)

    monkeypatch.setattr(linux, "lock_exclusive", lock)


def test_two_at_once_make_one_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "repo")

    def other() -> None:
        with Repository.init(path) as repo:
            repo.add_image(b"image", "name")

    interleaved(monkeypatch, other)
    with Repository.init(path) as repo:
        assert list(repo.image_refs()) == ["name"]


def test_one_that_fails_takes_only_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repo"
    interleaved(monkeypatch, lambda: (path / "mine").write_bytes(b"of somebody else") and None)
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    with pytest.raises(VerityError):
        Repository.init(str(path), verity=VerityPolicy.REQUIRE)
    assert os.listdir(path) == ["mine"]


def test_the_other_one_failed_and_removed_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repo"
    interleaved(monkeypatch, path.rmdir)
    with Repository.init(str(path)) as repo:
        assert repo.add_image(b"image") in repo.images()


def test_two_at_once_of_different_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "repo")
    interleaved(monkeypatch, lambda: Repository.init(path, algorithm=Algorithm.SHA512).close())
    with pytest.raises(UsageError, match="is a repository already"):
        Repository.init(path)
    Repository.open(path).close()


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such repository"):
        Repository.open(str(tmp_path / "absent"))
    with pytest.raises(NotFoundError, match="no repository"):
        Repository.open(str(tmp_path))
    (tmp_path / "objects").mkdir()
    with pytest.raises(RepositoryError, match=r"without meta\.json"):
        Repository.open(str(tmp_path))
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(RepositoryError, match="no version"):
        Repository.open(str(tmp_path))


def test_a_repository_of_cfsctl_has_the_policy_try(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    (tmp_path / "cfsfuse" / "verity").unlink()
    with Repository.open(str(tmp_path)) as repo:
        assert repo.policy is VerityPolicy.TRY


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    (tmp_path / "cfsfuse" / "verity").write_text("always\n")
    with pytest.raises(RepositoryError, match="unknown policy 'always'"):
        Repository.open(str(tmp_path))


def test_a_protected_meta_json_requires_fs_verity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository.init(str(tmp_path)).close()
    monkeypatch.setattr(kernelverity, "measure", lambda fd, algorithm: bytes(32))
    with Repository.open(str(tmp_path)) as repo:
        assert repo.policy is VerityPolicy.REQUIRE


def test_a_copy_that_lost_fs_verity_is_noticed(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    (tmp_path / "cfsfuse" / "verity").write_text("require\n")
    with pytest.raises(VerityError, match="requires fs-verity") as caught:
        Repository.open(str(tmp_path))
    assert caught.value.hint is not None
    assert "verity enable" in caught.value.hint
    with Repository.open(str(tmp_path), check_policy=False) as repo:
        assert repo.policy is VerityPolicy.REQUIRE


def test_features_that_allow_reading_only(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    meta = (tmp_path / "meta.json").read_text()
    (tmp_path / "meta.json").write_text(meta.replace('"v1_erofs"', '"v1_erofs", "later"'))
    with Repository.open(str(tmp_path)) as repo:
        assert not repo.writable
        with pytest.raises(RepositoryError, match="reading only here: later"):
            repo.publish({})
        with pytest.raises(RepositoryError, match="reading only"):
            repo.objects.put(b"x")


def test_without_permission_to_write(repo: Repository) -> None:
    repo.writable = False
    with pytest.raises(SystemFailure, match="no permission"):
        repo.put_stream("oci-blob-x", b"")


# --- streams and images --------------------------------------------------------------------------


def make_stream(content: bytes = b"content", content_type: int = OCI_LAYER) -> bytes:
    writer = SplitStreamWriter(Algorithm.SHA256, content_type)
    writer.inline(content)
    return writer.finish()


def test_streams(repo: Repository) -> None:
    assert repo.streams() == {}
    assert repo.stream_id("oci-layer-x") is None
    digest = repo.put_stream("oci-layer-x", make_stream())
    assert repo.stream_id("oci-layer-x") == digest
    assert repo.streams() == {"oci-layer-x": digest}
    assert b"".join(repo.open_stream("oci-layer-x", OCI_LAYER).chunks()) == b"content"
    name = digest.hex()
    target = os.readlink(f"{repo.path}/streams/oci-layer-x")
    assert target == f"../objects/{name[:2]}/{name[2:]}"
    other = repo.put_stream("oci-layer-x", make_stream(b"other"))
    assert repo.streams() == {"oci-layer-x": other}


def test_stream_refusals(repo: Repository) -> None:
    repo.put_stream("oci-layer-x", make_stream())
    with pytest.raises(NotFoundError, match="no such stream"):
        repo.open_stream("oci-layer-y")
    with pytest.raises(RepositoryError, match="another type"):
        repo.open_stream("oci-layer-x", OCI_CONFIG)
    repo.put_stream("sha512", SplitStreamWriter(Algorithm.SHA512, 0).finish())
    with pytest.raises(RepositoryError, match="sha512-12 digests"):
        repo.open_stream("sha512")
    for bad in ("", ".", "..", "refs", "a/b", "../x"):
        with pytest.raises(UsageError):
            repo.put_stream(bad, make_stream())
        with pytest.raises(UsageError):
            repo.open_stream(bad)


def test_a_damaged_stream_is_not_read(repo: Repository) -> None:
    digest = repo.put_stream("oci-layer-x", make_stream())
    path = Path(repo.objects.path, objects.object_path(digest))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RepositoryError, match="content does not have this digest"):
        repo.open_stream("oci-layer-x")


def test_publish_syncs_before_anything_is_visible(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = repository.refs.replace_link

    def link(root: int, path: str, target: str) -> None:
        order.append(path)
        real(root, path, target)

    monkeypatch.setattr(linux, "syncfs", lambda fd: order.append("sync"))
    monkeypatch.setattr(repository.refs, "replace_link", link)
    digest = repo.objects.put(make_stream())
    repo.publish({"b": digest, "a": digest}, [digest])
    assert order == ["sync", f"images/{digest.hex()}", "streams/b", "streams/a"]


def test_images(repo: Repository) -> None:
    image_id = repo.add_image(b"image" * 1000)
    assert repo.images() == {image_id: bytes.fromhex(image_id)}
    with repo.open_image(image_id) as data:
        assert data[:] == b"image" * 1000
    assert repo.image_refs() == {}
    repo.add_image(b"image" * 1000, "some/name")
    assert repo.image_refs() == {"some/name": image_id}
    assert os.readlink(f"{repo.path}/images/refs/some/name") == f"../../{image_id}"
    repo.untag("some/name")
    assert repo.image_refs() == {}
    with pytest.raises(NotFoundError):
        repo.untag("some/name")
    with pytest.raises(NotFoundError):
        repo.name_image("x", "0" * 64)


def test_only_listed_images_are_opened(repo: Repository) -> None:
    digest = repo.objects.put(b"not an image")
    for name in (digest.hex(), "../objects/" + objects.object_path(digest), "refs", "", "0" * 300):
        with pytest.raises(NotFoundError, match="no such image"):
            repo.open_image(name)
    image_id = repo.add_image(b"image")
    os.symlink(f"../objects/{objects.object_path(digest)}", f"{repo.path}/images/{'0' * 64}")
    with pytest.raises(NotFoundError):
        repo.open_image("0" * 64)
    assert list(repo.images()) == [image_id]


def test_a_damaged_image_is_not_opened(repo: Repository) -> None:
    image_id = repo.add_image(b"image" * 1000)
    path = Path(repo.objects.path, objects.object_path(bytes.fromhex(image_id)))
    path.write_bytes(b"IMAGE" * 1000)
    with pytest.raises(RepositoryError, match="does not have this digest"):
        repo.open_image(image_id)
    path.write_bytes(b"")
    for verify in (True, False):
        with pytest.raises(RepositoryError):
            repo.open_image(image_id, verify=verify)


def test_required_protection_is_checked_when_an_image_is_opened(repo: Repository) -> None:
    image_id = repo.add_image(b"image")
    repo.policy = VerityPolicy.REQUIRE
    with pytest.raises(VerityError, match="no fs-verity"):
        repo.open_image(image_id)


# --- locks ---------------------------------------------------------------------------------------


def test_an_open_repository_keeps_collectors_out(repo: Repository) -> None:
    with linux.opened(repo.path, os.O_RDONLY) as fd:
        assert not linux.lock_exclusive(fd, wait=False)
        with Repository.open(repo.path):
            repo.release_lock()
            assert not linux.lock_exclusive(fd, wait=False)
        assert linux.lock_exclusive(fd, wait=False)


def test_close_releases_everything(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Repository.init(str(tmp_path / "r")) as repo:
        add_image(repo, "one")
        names.resolve(repo, "one")
    repo.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_two_writers_of_the_same_content(tmp_path: Path) -> None:
    Repository.init(str(tmp_path)).close()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with Repository.open(str(tmp_path)) as repo:
                for number in range(100):
                    repo.objects.put(b"content %d" % number)
                repo.put_stream("oci-layer-x", make_stream())
                repo.tag("t", "oci-layer-x")
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with Repository.open(str(tmp_path)) as repo:
        assert (
            sum(len(os.listdir(f"{repo.objects.path}/{p}")) for p in repo.objects.prefixes()) == 101
        )


def test_link_digest() -> None:
    name = "ab" + "0" * 62
    digest = bytes.fromhex(name)
    assert link_digest(f"../objects/ab/{name[2:]}", Algorithm.SHA256) == digest
    assert link_digest(f"../../objects/ab/{name[2:]}", Algorithm.SHA256) == digest
    assert link_digest(f"../objects/ab/{name[2:]}", Algorithm.SHA512) is None
    assert link_digest(name, Algorithm.SHA256) is None
    assert link_digest("", Algorithm.SHA256) is None
