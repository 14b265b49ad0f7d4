"""Collection: everything that is needed stays, everything else goes, and the dry run knows it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.splitstream import OCI_LAYER, SplitStreamWriter
from cfsrepo.images.names import ImageName
from cfsrepo.store import ocistreams, pins
from cfsrepo.store.objects import ObjectStore, object_path
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux
from cfsrepo.upkeep import gc, reachability
from cfsrepo.upkeep.gc import collect
from tests.store.repository_helpers import add_files, add_image, image_held, make_image_file
from tests.waiting import PATIENCE, is_waited_for, wait_until

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


def state(repo: Repository) -> list[str]:
    """Every path of the repository."""
    return sorted(
        os.path.relpath(os.path.join(directory, name), repo.path)
        for directory, directories, files in os.walk(repo.path)
        for name in files
    )


def has(repo: Repository, content: bytes) -> bool:
    from cfsrepo.formats import fsverity

    return repo.objects.has(fsverity.digest(content, repo.algorithm))


def dry_and_real(repo: Repository) -> gc.Collected:
    """Collect; the dry run before changes nothing and says the same."""
    before = state(repo)
    dry = collect(repo, dry_run=True)
    assert state(repo) == before
    real = collect(repo)
    assert dry == real
    again = collect(repo)
    assert (again.objects, again.streams, again.images, again.leftovers) == (0, 0, 0, 0)
    return real


def test_an_empty_repository(repo: Repository) -> None:
    assert dry_and_real(repo) == gc.Collected()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_what_is_tagged_stays(tmp_path: Path, algorithm: Algorithm) -> None:
    with Repository.init(str(tmp_path / "r"), algorithm=algorithm) as repo:
        add_files(repo, "one", {"a": A, "dir/b": B})
        before = state(repo)
        assert dry_and_real(repo) == gc.Collected()
        assert state(repo) == before


def test_what_is_untagged_goes_but_for_what_is_shared(repo: Repository) -> None:
    add_files(repo, "one", {"a": A, "b": B})
    kept = state(repo)
    add_files(repo, "two", {"b": B, "c": C})
    assert len(state(repo)) > len(kept)
    repo.untag("two")
    result = dry_and_real(repo)
    assert state(repo) == kept
    # object C, image file, manifest and config with their streams, the layer's stream
    assert (result.objects, result.streams, result.images) == (7, 3, 1)
    assert result.size > len(C)
    assert result.disk >= 4096 * 7


def test_garbage_without_links_goes(repo: Repository) -> None:
    repo.objects.put(A)
    result = dry_and_real(repo)
    assert (result.objects, result.size) == (1, len(A))
    assert not has(repo, A)


def test_an_image_file_with_a_name_keeps_its_files(repo: Repository) -> None:
    image_id = repo.add_image(make_image_file({"a": A, "small": b"x"}, repo), "name")
    repo.objects.put(C)
    assert dry_and_real(repo).objects == 1
    assert has(repo, A)
    repo.untag("name")
    result = dry_and_real(repo)
    assert (result.objects, result.images) == (2, 1)
    assert image_id not in repo.images()


def test_streams_that_are_no_oci_images_are_followed(repo: Repository) -> None:
    """Any reference below streams/refs is a root, and named references reach streams by digest."""
    leaf = SplitStreamWriter(repo.algorithm, OCI_LAYER)
    leaf.external(repo.objects.put(A), len(A))
    leaf.keep(repo.objects.put(C))
    leaf_digest = repo.objects.put(leaf.finish())
    top = SplitStreamWriter(repo.algorithm, OCI_LAYER)
    top.named_ref("whatever", leaf_digest)
    repo.put_stream("top", top.finish())
    repo.set_stream_ref("other/tool/name", "top")
    assert dry_and_real(repo) == gc.Collected()
    assert has(repo, A)
    assert has(repo, C)


def test_a_chain_of_streams_is_followed_however_long(repo: Repository) -> None:
    digest = repo.objects.put(SplitStreamWriter(repo.algorithm, 0).finish())
    for _ in range(1200):
        writer = SplitStreamWriter(repo.algorithm, 0)
        writer.named_ref("next", digest)
        digest = repo.objects.put(writer.finish())
    repo.publish({"top": digest})
    repo.set_stream_ref("top", "top")
    assert collect(repo, dry_run=True) == gc.Collected()


# --- what is in use ------------------------------------------------------------------------------


def untagged(repo: Repository) -> ImageName:
    image = add_files(repo, "one", {"a": A, "b": B})
    repo.untag("one")
    return image


def test_a_pinned_image_stays_until_the_pin_goes(repo: Repository) -> None:
    image = untagged(repo)
    pin = pins.pin_person(repo, image.image_id, "test")
    result = dry_and_real(repo)
    assert result.images == 0
    assert result.streams == 3, "the image needs its files, not the layers' archives"
    assert result.kept == {image.image_id: ["pinned: test"]}
    assert has(repo, A)
    repo.open_image(image.image_id).close()
    pins.remove(repo, pin)
    assert dry_and_real(repo).images == 1
    assert not has(repo, A)


def test_a_pinned_image_that_is_tagged_keeps_all(repo: Repository) -> None:
    image = add_files(repo, "one", {"a": A})
    pins.pin_person(repo, image.image_id)
    result = dry_and_real(repo)
    assert (result.objects, result.streams) == (0, 0)


def test_the_pins_of_dead_processes_go(repo: Repository) -> None:
    image = untagged(repo)
    process = subprocess.Popen(["sleep", "100"])
    pins.pin_process(repo, image.image_id, "/mnt/x", process.pid)
    assert collect(repo).images == 0
    process.kill()
    process.wait()
    result = dry_and_real(repo)
    assert (result.pins, result.images) == (1, 1)
    assert pins.read(repo) == []


@pytest.mark.parametrize("text", ["", "?"])
def test_a_damaged_pin_keeps_what_its_name_says(repo: Repository, text: str) -> None:
    image = untagged(repo)
    other = add_files(repo, None, {"c": C})
    pin = pins.pin_person(repo, image.image_id)
    Path(repo.path, pins.path_of(pin)).write_text(text)
    result = dry_and_real(repo)
    assert result.damaged_pins == [pin.pin_id]
    assert list(result.kept) == [image.image_id]
    assert has(repo, A)
    assert other.image_id not in repo.images()


def test_a_damaged_pin_whose_name_says_nothing_keeps_all(repo: Repository) -> None:
    image = untagged(repo)
    other = add_files(repo, None, {"c": C})
    Path(repo.private_directory("pins"), "torn").write_bytes(b"")
    assert sorted(dry_and_real(repo).kept) == sorted([image.image_id, other.image_id])


def test_an_image_that_another_process_has_mapped_stays(repo: Repository) -> None:
    """As a server whose pin is not seen: in another PID namespace, or removed."""
    image = untagged(repo)
    with image_held(repo, image.image_id):
        result = dry_and_real(repo)
        assert result.kept == {image.image_id: ["its file is open or mounted"]}
        assert has(repo, A)
    assert dry_and_real(repo).images == 1
    assert not has(repo, A)


def test_what_is_in_use_is_asked_under_the_exclusive_lock(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is made while the collector waits for the lock."""
    image = untagged(repo)
    held: list[object] = []
    real = Repository.exclusive

    @contextlib.contextmanager
    def exclusive(self: Repository, waiting: Callable[[str], object]) -> Iterator[None]:
        held.append(self.open_image(image.image_id))
        with real(self, waiting):
            yield

    monkeypatch.setattr(Repository, "exclusive", exclusive)
    assert collect(repo).kept == {image.image_id: ["its file is open or mounted"]}
    assert has(repo, A)


def test_a_pull_while_a_dry_run_looks_is_not_counted(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.objects.put(C)
    real = ObjectStore.prefixes

    def prefixes(self: ObjectStore) -> list[str]:
        monkeypatch.undo()
        add_files(repo, "late", {"a": A, "c": C})
        return real(self)

    monkeypatch.setattr(ObjectStore, "prefixes", prefixes)
    dry = collect(repo, dry_run=True)
    assert (dry.objects, dry.streams, dry.images, dry.disk) == (0, 0, 0, 0)


def test_a_tag_that_comes_while_names_are_read_is_no_damage(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Repository.streams

    def streams(self: Repository) -> dict[str, bytes]:
        found = real(self)
        monkeypatch.undo()
        add_files(self, "late", {"a": A})
        return found

    monkeypatch.setattr(Repository, "streams", streams)
    assert collect(repo).objects == 0
    assert has(repo, A)


# --- damage --------------------------------------------------------------------------------------


def break_object(repo: Repository, digest: bytes) -> None:
    path = Path(repo.objects.path, object_path(digest))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("prefix", ["oci-manifest", "oci-config", "oci-layer"])
def test_a_stream_that_cannot_be_read_stops_the_collection(
    repo: Repository, how: str, prefix: str
) -> None:
    add_files(repo, "one", {"a": A})
    repo.objects.put(C)
    (digest,) = (d for name, d in repo.streams().items() if name.startswith(prefix))
    if how == "missing":
        os.unlink(Path(repo.objects.path, object_path(digest)))
    else:
        break_object(repo, digest)
    before = state(repo)
    for dry_run in (True, False):
        with pytest.raises(RepositoryError):
            collect(repo, dry_run=dry_run)
    assert state(repo) == before


def test_an_image_that_cannot_be_read_stops_the_collection(repo: Repository) -> None:
    image_id = repo.add_image(make_image_file({"a": A}, repo), "name")
    break_object(repo, bytes.fromhex(image_id))
    with pytest.raises(RepositoryError, match=image_id):
        collect(repo)
    assert has(repo, A)


def test_a_name_for_nothing_stops_the_collection(repo: Repository) -> None:
    image = add_files(repo, "one", {"a": A})
    os.unlink(f"{repo.path}/streams/{ocistreams.MANIFEST_PREFIX}{image.manifest_digest}")
    with pytest.raises(RepositoryError, match="streams/refs/oci/one: there is no stream"):
        collect(repo)
    repo.untag("one")
    repo.name_image("name", image.image_id)
    os.unlink(f"{repo.path}/images/{image.image_id}")
    with pytest.raises(RepositoryError, match="images/refs/name: there is no image"):
        collect(repo)


def test_links_without_objects_go(repo: Repository) -> None:
    """What a collector of another program leaves that was killed after the objects."""
    digest = repo.put_stream("oci-blob-x", SplitStreamWriter(repo.algorithm, 0).finish())
    os.unlink(Path(repo.objects.path, object_path(digest)))
    assert dry_and_real(repo).streams == 1


@pytest.mark.parametrize("name", ["A" * 62, "a" * 61 + " ", "0" * 61 + "\u0661", "x" * 62])
def test_a_name_that_is_nearly_one_is_a_stray(repo: Repository, name: str) -> None:
    os.makedirs(f"{repo.objects.path}/00")
    stray = Path(repo.objects.path, "00", name)
    stray.write_bytes(b"")
    assert dry_and_real(repo).strays == [str(stray)]
    assert stray.exists()


def test_strays_are_told_and_left_alone(repo: Repository) -> None:
    os.makedirs(f"{repo.objects.path}/00")
    strays = [f"{repo.objects.path}/00/{name}" for name in ("README", "0" * 60, "A" * 62)]
    for stray in strays:
        Path(stray).write_bytes(b"")
    assert sorted(dry_and_real(repo).strays) == sorted(strays)
    assert all(os.path.exists(stray) for stray in strays)


def test_leftovers_go(repo: Repository) -> None:
    repo.objects.put(A)
    leftovers = [
        ".symlink-0123",
        "meta.json.new",
        "cfsfuse/verity.new",
        "objects/.tmp-0123",
        "cfsfuse/pins/.half",
        "cfsfuse/merkle/.tmp-0123",
    ]
    repo.private_directory("pins")
    repo.private_directory("merkle")
    for path in leftovers:
        Path(repo.path, path).write_bytes(b"")
    assert dry_and_real(repo).leftovers == len(leftovers)
    assert not any(os.path.exists(f"{repo.path}/{path}") for path in leftovers)


def test_hash_trees_go_with_their_objects(repo: Repository) -> None:
    add_files(repo, "one", {"a": A})
    kept, gone = object_path(repo.objects.put(A)), object_path(repo.objects.put(C))
    for path in (kept, gone):
        tree = Path(repo.private_directory("merkle"), path)
        tree.parent.mkdir(exist_ok=True)
        tree.write_bytes(b"tree")
    dry_and_real(repo)
    assert Path(repo.private_directory("merkle"), kept).exists()
    assert not Path(repo.private_directory("merkle"), gone).exists()


# --- locks and order -----------------------------------------------------------------------------


def test_a_collection_waits_for_others_and_sees_what_they_did(repo: Repository) -> None:
    """A pull that ends while a collector waits: its image is complete, and stays."""
    repo.objects.put(C)
    done: list[gc.Collected] = []
    waiting = threading.Event()

    class Waiting:
        def start(self, task: str, total: int | None, unit: str = "B") -> None: ...
        def advance(self, task: str, amount: int) -> None: ...
        def finish(self, task: str, note: str = "") -> None: ...
        def message(self, text: str) -> None:
            waiting.set()

    def collector() -> None:
        with Repository.open(repo.path) as other:
            done.append(collect(other, progress=Waiting()))

    thread = threading.Thread(target=collector)
    thread.start()
    assert waiting.wait(PATIENCE)
    wait_until(lambda: is_waited_for(repo.path), "the collector wants the exclusive lock")
    assert not done
    add_files(repo, "late", {"a": A, "c": C})
    repo.close()
    thread.join()
    assert done[0].objects == 0, "the content was needed again before the lock was free"
    with Repository.open(repo.path) as other:
        assert has(other, A)
        assert has(other, C)


def test_two_collectors_do_not_block_each_other(repo: Repository) -> None:
    for number in range(50):
        repo.objects.put(b"%d" % number * 1000)
    repo.close()
    results: list[gc.Collected] = []

    def collector() -> None:
        with Repository.open(repo.path) as other:
            results.append(collect(other))

    threads = [threading.Thread(target=collector) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sum(result.objects for result in results) == 50


def test_the_lock_is_shared_again_afterwards(repo: Repository) -> None:
    collect(repo)
    with linux.opened(repo.path, os.O_RDONLY) as fd:
        assert not linux.lock_exclusive(fd, wait=False)
        linux.lock_shared(fd)


def test_links_go_before_objects(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a process killed in between leaves objects without links, never links without objects."""
    add_files(repo, "one", {"a": A})
    repo.untag("one")
    removed: list[str] = []
    real = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        removed.append("object" if len(os.path.basename(path)) == 62 else "link")
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    collect(repo)
    assert removed == sorted(removed)
    assert set(removed) == {"link", "object"}


def test_marking_again_reads_nothing_again(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(repo, "one", {"a": A})
    marker = reachability.Marker(repo)
    first = marker.mark()
    monkeypatch.setattr(Repository, "read_stream", None)
    assert marker.mark() == first


def test_no_object_data_is_read(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    add_files(repo, "one", {"a": A, "b": B})
    repo.add_image(make_image_file({"c": C}, repo), "alone")
    opened: list[bytes] = []
    real = type(repo.objects).open

    def spy(self: object, digest: bytes) -> int:
        opened.append(digest)
        return real(repo.objects, digest)

    monkeypatch.setattr(type(repo.objects), "open", spy)
    collect(repo, dry_run=True)
    # Image files are opened to ask whether others have them open, too.
    assert set(opened) == {*repo.streams().values(), *repo.images().values()}


def test_a_read_only_repository_can_be_asked(repo: Repository) -> None:
    repo.objects.put(A)
    repo.writable = repo.objects.writable = False
    assert collect(repo, dry_run=True).objects == 1
    with pytest.raises(Exception, match="no permission"):
        collect(repo)


def test_the_result_does_not_depend_on_add_image(repo: Repository) -> None:
    """The helper's images are sound: nothing of one is garbage."""
    add_image(repo, "one", layers=[[A, B], [C]])
    assert dry_and_real(repo) == gc.Collected()
