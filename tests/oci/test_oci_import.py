"""Pulls into a repository: what appears, and that a pull that fails leaves nothing to be seen."""

from __future__ import annotations

import contextlib
import errno
import gzip as gzip_module
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cfsrepo.errors import CfsError, DigestMismatchError, InputError, NotFoundError, UsageError
from cfsrepo.formats import fsverity
from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, SplitStream
from cfsrepo.images import names
from cfsrepo.oci import workers
from cfsrepo.oci.documents import LAYER_TYPES
from cfsrepo.oci.importer import PulledImage, pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import (
    LayoutBuilder,
    archive,
    base,
    directory,
    gzip,
    hardlink,
    header,
    member,
    sha256,
    zstd,
)

GOOD = base(member(b"f", b"x" * 5000), member(b"inline", b"y" * 64), directory(b"d"))
BIG = base(*(member(b"%d" % number, os.urandom(40_000)) for number in range(100)))


@pytest.fixture
def builder(tmp_path: object) -> LayoutBuilder:
    return LayoutBuilder(f"{tmp_path}/layout")


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


def visible(repo: Repository) -> dict[str, str]:
    """All of a repository but its objects: path -> link target or content."""
    found = {}
    for parent, directories, files in os.walk(repo.path):
        if parent == repo.path:
            directories.remove("objects") if "objects" in directories else None
        for name in directories + files:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found[path] = repr(file.read())
    return found


def temporary_objects(repo: Repository) -> list[str]:
    objects = os.path.join(repo.path, "objects")
    return (
        [name for name in os.listdir(objects) if len(name) != 2] if os.path.isdir(objects) else []
    )


# -- what appears ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_what_a_pull_makes(count: int, repo: Repository, builder: LayoutBuilder) -> None:
    """One layer is imported in this process, several in processes of their own."""
    layers = [GOOD, archive(member(b"two", b"2" * 100)), archive(member(b"three", b"3"))][:count]
    entry = builder.image(*layers)
    found = pull(repo, builder.source(), "name")
    assert found.layers == found.new_layers == count
    assert found.manifest_digest == entry["digest"]
    assert repo.tags() == {"name": "oci-manifest-" + entry["digest"]}
    assert repo.images() == {found.image_id: bytes.fromhex(found.image_id)}

    manifest = repo.open_stream("oci-manifest-" + entry["digest"], OCI_MANIFEST)
    config = repo.open_stream("oci-config-" + found.config_digest, OCI_CONFIG)
    assert content(repo, manifest) == read(builder.blob_path(entry["digest"]))
    assert content(repo, config) == read(builder.blob_path(found.config_digest))
    diff_ids = [sha256(layer) for layer in layers]
    assert set(manifest.named_refs) == {"config:" + found.config_digest, *diff_ids}
    assert set(config.named_refs) == {"composefs.image.v1", *diff_ids}
    assert config.named_refs["composefs.image.v1"].hex() == found.image_id
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        assert content(repo, repo.open_stream("oci-layer-" + diff_id, OCI_LAYER)) == layer
    assert names.resolve(repo, "name").image_id == found.image_id
    assert temporary_objects(repo) == []


def content(repo: Repository, stream: SplitStream) -> bytes:
    from cfsrepo.formats.splitstream import Digest

    return b"".join(
        repo.objects.read(part) if isinstance(part, Digest) else part for part in stream.chunks()
    )


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_what_is_inline_and_what_an_object(repo: Repository, builder: LayoutBuilder) -> None:
    files = {size: os.urandom(size) for size in (1, 63, 64, 65, 4096)}
    layer = base(*(member(b"%d" % size, data) for size, data in files.items()))
    builder.image(layer)
    pull(repo, builder.source(), "name")
    stream = repo.open_stream("oci-layer-" + sha256(layer))
    stored = [repo.objects.read(digest) for digest in stream.object_refs]
    assert stored == [files[65], files[4096]]


def test_pulled_again(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD, archive(member(b"two", b"2")))
    first = pull(repo, builder.source(), "name")
    before = visible(repo)
    again = pull(repo, builder.source(), "name")
    assert (again.image_id, again.new_layers) == (first.image_id, 0)
    assert visible(repo) == before


def test_known_layers_are_not_read(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD, ref="one")
    pull(repo, builder.source("one"), "one")
    upper = archive(member(b"two", b"2"))
    builder.image(GOOD, upper, ref="two")
    os.unlink(builder.blob_path(sha256(gzip(GOOD))))
    found = pull(repo, builder.source("two"), "two")
    assert (found.layers, found.new_layers) == (2, 1)


def test_a_layer_whose_object_is_lost_is_imported_again(
    repo: Repository, builder: LayoutBuilder
) -> None:
    builder.image(GOOD)
    first = pull(repo, builder.source(), "name")
    digest = repo.stream_id("oci-layer-" + sha256(GOOD))
    assert digest is not None
    os.unlink(f"{repo.path}/streams/../objects/{digest.hex()[:2]}/{digest.hex()[2:]}")
    again = pull(repo, builder.source(), "name")
    assert (again.image_id, again.new_layers) == (first.image_id, 1)


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_layer_that_is_cut_off_is_imported_again(
    size: int, repo: Repository, builder: LayoutBuilder
) -> None:
    """As a crash of the machine may leave it."""
    builder.image(GOOD)
    first = pull(repo, builder.source(), "name")
    digest = repo.stream_id("oci-layer-" + sha256(GOOD))
    assert digest is not None
    os.truncate(f"{repo.path}/objects/{digest.hex()[:2]}/{digest.hex()[2:]}", size)
    again = pull(repo, builder.source(), "name")
    assert (again.image_id, again.new_layers) == (first.image_id, 1)
    assert content(repo, repo.open_stream("oci-layer-" + sha256(GOOD))) == GOOD


def test_a_lost_object_comes_back(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD)
    pull(repo, builder.source(), "name")
    (digest,) = repo.open_stream("oci-layer-" + sha256(GOOD)).object_refs
    os.unlink(f"{repo.path}/objects/{digest.hex()[:2]}/{digest.hex()[2:]}")
    assert pull(repo, builder.source(), "name").new_layers == 1
    assert repo.objects.read(digest) == b"x" * 5000


@pytest.mark.parametrize("stored", [1, 100, 5000])
@pytest.mark.parametrize("size", [5000, 3 << 20])
def test_sparse_files(stored: int, size: int, repo: Repository, builder: LayoutBuilder) -> None:
    """The image has the whole file, and the layer keeps its object from collection."""
    data = os.urandom(stored)
    pax = {b"GNU.sparse.map": b"%d,%d" % (size - stored, stored), b"GNU.sparse.size": b"%d" % size}
    layer = base(member(b"f", data, pax=pax))
    builder.image(layer)
    found = pull(repo, builder.source(), "name")
    whole = fsverity.digest(bytes(size - stored) + data)
    assert whole in repo.open_stream("oci-layer-" + sha256(layer)).object_refs
    assert repo.objects.size(whole) == size
    with repo.open_image(found.image_id) as image:
        assert whole in image[:]
    assert content(repo, repo.open_stream("oci-layer-" + sha256(layer))) == layer


def test_small_sparse_files(repo: Repository, builder: LayoutBuilder) -> None:
    pax = {b"GNU.sparse.map": b"3,1,10,2", b"GNU.sparse.size": b"60"}
    builder.image(base(member(b"f", b"abc", pax=pax)))
    found = pull(repo, builder.source(), "name")
    with repo.open_image(found.image_id) as image:
        assert bytes(3) + b"a" + bytes(6) + b"bc" + bytes(48) in image[:]


def test_no_layers_at_all(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image()
    found = pull(repo, builder.source(), "name")
    assert (found.layers, found.new_layers) == (0, 0)


def test_one_layer_twice(repo: Repository, builder: LayoutBuilder) -> None:
    empty = archive()
    builder.image(GOOD, empty, empty)
    found = pull(repo, builder.source(), "name")
    assert (found.layers, found.new_layers) == (3, 2)


def test_default_name(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD, ref="v1")
    assert pull(repo, builder.source("v1")).name == "layout:v1"
    assert set(repo.tags()) == {"layout:v1"}


def test_all_xattrs(repo: Repository, builder: LayoutBuilder) -> None:
    pax = {b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.user.cfs.meta": b"forged"}
    builder.image(base(member(b"f", pax=pax)))

    texts: list[str] = []

    class Messages:
        def message(self, text: str) -> None:
            texts.append(text)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args: None

    messages: Any = Messages()
    plain = pull(repo, builder.source(), "name", progress=messages)
    assert any("user.cfs.*" in text for text in texts)
    everything = pull(repo, builder.source(), "name", xattrs=XattrMode.ALL)
    assert everything.image_id != plain.image_id
    # The name means what was pulled last.
    assert names.resolve(repo, "name").image_id == everything.image_id
    assert pull(repo, builder.source(), "name").image_id == plain.image_id
    assert names.resolve(repo, "name").image_id == plain.image_id


def test_long_runs_without_an_object(repo: Repository, builder: LayoutBuilder) -> None:
    """A split stream's inline data is cut where a reader can bear it."""
    layer = base(*(member(b"%05d" % number, b"i" * (number % 64)) for number in range(20_000)))
    builder.image(layer)
    first = pull(repo, builder.source(), "name")
    stream = repo.open_stream("oci-layer-" + sha256(layer))
    assert content(repo, stream) == layer
    assert pull(repo, builder.source(), "name").image_id == first.image_id


# -- what must not be pulled ----------------------------------------------------------------------

Damage = Callable[[LayoutBuilder], str]


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))


def with_layer(tar: bytes, packed: bytes | None = None, suffix: str = "+gzip") -> Damage:
    """An image whose second layer is `packed`, promised to be `tar`."""

    def damage(builder: LayoutBuilder) -> str:
        layer = builder.blob(
            gzip(tar) if packed is None else packed,
            "application/vnd.oci.image.layer.v1.tar" + suffix,
        )
        builder.image(GOOD, tar, layers=[builder.layer(GOOD), layer])
        return builder.source()

    return damage


def on_blob(which: str, change: Callable[[str], object]) -> Damage:
    """An image one of whose blobs is changed after it was written."""

    def damage(builder: LayoutBuilder) -> str:
        entry = builder.image(GOOD, BIG)
        if which == "manifest":
            digest = entry["digest"]
        elif which == "config":
            manifest = read(builder.blob_path(entry["digest"])).decode()
            digest = manifest.split('"digest": "')[1].split('"')[0]
        else:
            digest = sha256(gzip(BIG))
        change(builder.blob_path(digest))
        return builder.source()

    return damage


def cut_in_half(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def bent(**bends: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(builder: LayoutBuilder) -> str:
        builder.image(GOOD, BIG, **bends)  # type: ignore[arg-type]
        return builder.source()

    return damage


def diff_ids(change: Callable[[list[str]], list[str]]) -> Callable[[dict[str, Any]], Any]:
    def bend(config: dict[str, Any]) -> Any:
        config["rootfs"]["diff_ids"] = change(config["rootfs"]["diff_ids"])

    return bend


CAPABILITY = b"SCHILY.xattr.security.capability"
WRONG = "sha256:" + "0" * 64
X = archive(member(b"x", b"data"))

DAMAGED: dict[str, tuple[Damage, type[CfsError], str]] = {
    "layer missing": (on_blob("layer", os.unlink), NotFoundError, "blob sha256:.* is missing"),
    "layer cut": (on_blob("layer", cut_in_half), InputError, r"\d+ bytes, not \d+"),
    "layer empty": (on_blob("layer", lambda path: os.truncate(path, 0)), InputError, "0 bytes"),
    "layer longer": (
        on_blob("layer", lambda path: os.truncate(path, os.path.getsize(path) + 1)),
        InputError,
        "bytes, not",
    ),
    "layer changed at the start": (
        on_blob("layer", lambda path: flip(path, 1)),
        DigestMismatchError,
        "its digest is",
    ),
    "layer changed in the middle": (
        on_blob("layer", lambda path: flip(path, 1_000_000)),
        DigestMismatchError,
        "its digest is",
    ),
    "layer is a directory": (
        on_blob("layer", lambda path: (os.unlink(path), os.mkdir(path))),
        InputError,
        "no regular file",
    ),
    "layer is a FIFO": (
        on_blob("layer", lambda path: (os.unlink(path), os.mkfifo(path))),
        InputError,
        "no regular file",
    ),
    "config missing": (on_blob("config", os.unlink), NotFoundError, "is missing"),
    "config changed": (
        on_blob("config", lambda path: flip(path, 3)),
        DigestMismatchError,
        "its digest is",
    ),
    "config cut": (on_blob("config", cut_in_half), InputError, "bytes, not"),
    "manifest missing": (on_blob("manifest", os.unlink), NotFoundError, "is missing"),
    "manifest changed": (
        on_blob("manifest", lambda path: flip(path, 3)),
        DigestMismatchError,
        "its digest is",
    ),
    "manifest no JSON": (bent(bend_manifest=lambda _: b"no JSON"), InputError, "no JSON"),
    "manifest nested": (
        bent(bend_manifest=lambda _: b"[" * 1_000_000),
        InputError,
        "nested too deeply",
    ),
    "config no JSON": (bent(bend_config=lambda _: b"{]"), InputError, "no JSON"),
    "config nested": (bent(bend_config=lambda _: b"[" * 1_000_000), InputError, "nested"),
    "wrong diff id": (
        bent(bend_config=diff_ids(lambda found: [found[0], WRONG])),
        DigestMismatchError,
        "unpacked it has the digest",
    ),
    "diff ids exchanged": (
        bent(bend_config=diff_ids(lambda found: found[::-1])),
        DigestMismatchError,
        "unpacked it has the digest",
    ),
    "a diff id too few": (
        bent(bend_config=diff_ids(lambda found: found[:1])),
        InputError,
        "1 layers, but the manifest has 2",
    ),
    "a diff id too many": (
        bent(bend_config=diff_ids(lambda found: [*found, WRONG])),
        InputError,
        "3 layers, but the manifest has 2",
    ),
    "unknown layer type": (
        with_layer(X, X, "+bzip2"),
        InputError,
        "unknown type of layer",
    ),
    "gzip cut": (with_layer(X, gzip(X)[:-10]), InputError, "gzip stream is cut off"),
    "gzip damaged": (with_layer(X, gzip(X)[:-8] + bytes(8)), InputError, "damaged gzip"),
    "gzip with garbage": (with_layer(X, gzip(X) + b"garbage"), InputError, "gzip"),
    "no gzip": (with_layer(X, X), InputError, "damaged gzip"),
    "no zstd": (with_layer(X, X, "+zstd"), InputError, "damaged zstd"),
    "zstd cut": (with_layer(X, zstd(X)[:-10], "+zstd"), InputError, "zstd stream is cut off"),
    "empty layer blob": (with_layer(X, b""), DigestMismatchError, "unpacked it has the digest"),
    "tar of garbage": (with_layer(b"z" * 5000), InputError, "checksum"),
    "tar cut in a header": (with_layer(X[:300]), InputError, "cut off in a header"),
    "tar cut in a file": (with_layer(BIG[:50_000]), InputError, "cut off in a file"),
    "tar that promises more": (
        with_layer(archive(header(b"x", size=1 << 40))),
        InputError,
        "cut off in a file",
    ),
    "tar that promises less": (
        with_layer(archive(header(b"x", size=3), b"data is longer than three".ljust(1024))),
        InputError,
        "checksum",
    ),
    "tar with ..": (with_layer(archive(member(b"../../x"))), InputError, "'..' in a path"),
    "hard link to nothing": (
        with_layer(archive(hardlink(b"x", b"nothing"))),
        InputError,
        "does not exist",
    ),
    "hard link to itself": (
        with_layer(archive(hardlink(b"x", b"x"))),
        InputError,
        "does not exist",
    ),
    "through a file": (with_layer(archive(member(b"f/x"))), InputError, "no directory"),
    "name too long": (with_layer(archive(member(b"n" * 300))), InputError, "300 bytes"),
    "xattr over the limits": (
        with_layer(archive(member(b"x", pax={CAPABILITY: bytes(70_000)}))),
        InputError,
        "over the limits",
    ),
    "metadata without end": (
        with_layer(header(b"x", b"x", size=1 << 30) + bytes(1 << 20)),
        InputError,
        "metadata",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_pull_that_fails_leaves_nothing(
    case: str, repo: Repository, builder: LayoutBuilder
) -> None:
    damage, kind, message = DAMAGED[case]
    builder.image(GOOD, ref="before")
    good = pull(repo, builder.source("before"), "before")
    before = visible(repo)
    source = damage(builder)
    with pytest.raises(kind, match=message) as caught:
        pull(repo, source, "name")
    assert "\n" not in str(caught.value)
    assert visible(repo) == before
    assert temporary_objects(repo) == []
    assert names.resolve(repo, "before").image_id == good.image_id


def test_exit_codes(builder: LayoutBuilder, tmp_path: object) -> None:
    """The command: one line on stderr, the code of the table."""

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cfstools", "--repo", f"{tmp_path}/repo", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""

    good = builder.image(GOOD, ref="good")
    assert run("pull", builder.source("good"))[0] == 3  # there is no repository
    assert run("init")[0] == 0
    assert run("pull", builder.source("good"), "name")[0] == 0
    code, line = run("pull", builder.source("nothing"))
    assert (code, "no image nothing" in line) == (3, True)
    code, line = run("pull", "docker:x")
    assert (code, "unknown kind of image" in line) == (2, True)
    code, line = run("pull", builder.source("good"), "@x")
    assert (code, "'@'" in line) == (2, True)
    flip(builder.blob_path(good["digest"]), 3)
    code, line = run("pull", builder.source("good"), "name")
    assert (code, line.startswith("cfs: ") and "its digest is" in line) == (4, True)


def test_a_name_that_is_none(repo: Repository, builder: LayoutBuilder) -> None:
    builder.image(GOOD)
    with pytest.raises(UsageError):
        pull(repo, builder.source(), "a\nb")
    assert not os.path.isdir(f"{repo.path}/objects") or not os.listdir(f"{repo.path}/objects")


def test_xattrs_over_the_limits_of_images(repo: Repository, builder: LayoutBuilder) -> None:
    """Each within the limits, but too much for one file of an image."""
    pax = {b"SCHILY.xattr.user.%d" % number: bytes(40_000) for number in range(5)}
    builder.image(base(member(b"x", pax=pax)))
    before = visible(repo)
    with pytest.raises(InputError, match="attributes"):
        pull(repo, builder.source(), "name", xattrs=XattrMode.ALL)
    assert visible(repo) == before


def test_a_layer_of_another_archive_is_no_substitute(
    repo: Repository, builder: LayoutBuilder
) -> None:
    """A diff id that lies must not become a layer that later pulls trust."""
    builder.image(GOOD, BIG, bend_config=diff_ids(lambda found: [found[0], sha256(X)]))
    with pytest.raises(DigestMismatchError):
        pull(repo, builder.source(), "name")
    assert repo.stream_id("oci-layer-" + sha256(X)) is None


# -- when the machine fails -----------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: str, size: str) -> Iterator[str]:
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("count", [1, 2])
def test_full_disk(count: int, builder: LayoutBuilder, tmp_path: object) -> None:
    layers = [BIG, archive(*(member(b"b%d" % n, os.urandom(40_000)) for n in range(100)))][:count]
    builder.image(*layers)
    with small_disk(f"{tmp_path}/disk", "2m") as disk:
        with Repository.init(f"{disk}/repo") as repo:
            before = visible(repo)
            with pytest.raises(OSError, match="No space left") as caught:
                pull(repo, builder.source(), "name")
            assert caught.value.errno == errno.ENOSPC
            assert visible(repo) == before
        command = [sys.executable, "-m", "cfstools", "--repo", f"{disk}/repo", "pull"]
        done = subprocess.run(
            [*command, builder.source(), "name"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 6
        line = done.stderr.splitlines()[-1]
        assert line.startswith("cfs: ")
        assert "No space left on device (free space" in line


def test_a_worker_that_dies(
    repo: Repository, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.image(GOOD, BIG)
    monkeypatch.setattr(workers, "import_layer", lambda *args: os._exit(9))
    before = visible(repo)
    with pytest.raises(CfsError, match="ended with code 9"):
        pull(repo, builder.source(), "name")
    assert visible(repo) == before


def test_an_interrupt_ends_the_workers(
    repo: Repository, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting:
        def advance(self, task: str, amount: int) -> None:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args: None

    builder.image(GOOD, BIG)
    interrupting: Any = Interrupting()
    before = visible(repo)
    with pytest.raises(KeyboardInterrupt):
        pull(repo, builder.source(), "name", progress=interrupting)
    assert visible(repo) == before
    # All children were waited for.
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_progress_counts_the_blobs(repo: Repository, builder: LayoutBuilder) -> None:
    counts: dict[str, int] = {}
    ended = []

    class Counting:
        def start(self, task: str, total: int | None, unit: str = "B") -> None:
            counts[task] = -(total or 0)

        def advance(self, task: str, amount: int) -> None:
            counts[task] += amount

        def finish(self, task: str, note: str = "") -> None:
            ended.append(task)

        def message(self, text: str) -> None:
            raise AssertionError(text)

    builder.image(GOOD, BIG, architecture="amd64" if os.uname().machine == "x86_64" else "arm64")
    pull(repo, builder.source(), "name", progress=Counting())
    assert set(ended) == set(counts)
    assert len(counts) == 3
    assert {count for task, count in counts.items() if task.startswith("layer ")} == {0}


def test_every_layer_type_is_unpacked(repo: Repository, builder: LayoutBuilder) -> None:
    packers = {"none": bytes, "gzip": gzip_module.compress, "zstd": zstd}
    images: list[PulledImage] = []
    for number, (media_type, compression) in enumerate(sorted(LAYER_TYPES.items())):
        tar = base(member(b"f", b"%d" % number))
        layer = builder.blob(packers[compression.value](tar), media_type)
        builder.image(tar, layers=[layer], ref=f"i{number}")
        images.append(pull(repo, builder.source(f"i{number}"), f"i{number}"))
    assert len({image.image_id for image in images}) == len(LAYER_TYPES)
