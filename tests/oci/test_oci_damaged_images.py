"""Images that must not be pulled: each leaves nothing to be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cfsrepo.errors import CfsError, DigestMismatchError, InputError, NotFoundError, UsageError
from cfsrepo.images import names
from cfsrepo.oci.importer import pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import (
    LayoutBuilder,
    archive,
    base,
    gzip,
    hardlink,
    header,
    member,
    sha256,
    zstd,
)
from tests.oci.pull_helpers import BIG, GOOD, flip, read, temporary_objects, visible

Damage = Callable[[LayoutBuilder], str]


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
    "through a file": (
        with_layer(archive(member(b"n"), member(b"n/x"))),
        InputError,
        "no directory",
    ),
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
    code, line = run("pull", "docker:/x")
    assert (code, "docker:/x" in line) == (2, True)
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
