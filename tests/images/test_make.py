"""Images as trees and dumps: damage gives an error or an answer, and both makers the same bytes."""

from __future__ import annotations

import os
import random
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings

from cfsrepo.errors import CfsError, InputError, UsageError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.images.load import load_tree, open_image
from cfsrepo.images.make import Maker, make_image
from tests.conftest import Peer
from tests.formats.formats_helpers import (
    dirent_of,
    dump_bytes,
    dump_of_image,
    image_bytes,
    patched,
    random_tree,
    sha256_trees,
    tree_of,
)
from tests.formats.test_golden import load

ROOT = b"/ 4096 40755 2 0 0 0 0.0 - - -\n"
SAMPLE = (
    ROOT
    + b"/a 1 100644 2 0 0 0 1.0 ab/cd - "
    + b"ab" * 32
    + b" user.x=y\n"
    + b"/b 4096 40755 2 0 0 0 0.0 - - - user.x=y\n"
    + b"/b/link 1 @100644 2 0 0 0 0.0 /a - -\n"
    + b"/b/sub 4096 40755 2 0 0 0 0.0 - - -\n"
    + b"/c 4 120777 1 0 0 0 0.0 dest - -\n"
)


def read_everything(data: bytes) -> None:
    """All that can be asked of an image."""
    image = ErofsImage(data)
    walk = ImageWalk(image)
    for entry in walk.entries():
        nid = entry.info.nid
        walk.node(entry.info)
        image.raw_xattrs(nid)
        image.xattrs(nid)
        image.backing(nid)
        if stat.S_ISDIR(entry.info.mode):
            for _, name, *_ in image.readdir(nid):
                image.lookup(nid, name)
            image.lookup(nid, b"no such name")
        elif stat.S_ISLNK(entry.info.mode):
            image.readlink(nid)
        elif stat.S_ISREG(entry.info.mode):
            image.is_sparse(nid)
    load_tree(image)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_an_error_or_an_answer(seed: int) -> None:
    """10,000 flips and cuts, over all seeds, of images with everything in them."""
    rng = random.Random(seed)
    data = image_bytes(random_tree(seed + 7, 8, 2), seed % 2, 1)
    refused = 0
    for _ in range(1250):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            # Where bytes mean most: the superblock and inodes are in front of padding and data.
            at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 24576))
            damaged[at] = rng.choice(
                [damaged[at] ^ 1 << rng.randrange(8), 0, 0xFF, rng.randrange(256)]
            )
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(data)) :]
        try:
            read_everything(bytes(damaged))
        except InputError:
            refused += 1
    assert 0 < refused < 1250


def test_a_directory_that_contains_itself_ends_the_walk() -> None:
    data = image_bytes(tree_of(SAMPLE))
    image = ErofsImage(data)
    outer = image.lookup_path(b"/b")
    assert outer is not None
    loop = patched(data, dirent_of(data, b"/b/sub"), struct.pack("<Q", outer))
    with pytest.raises(InputError, match="is in two directories"):
        load_tree(ErofsImage(loop))
    with pytest.raises(InputError, match="is in two directories"):
        dump_of_image(loop)


def test_hard_links_with_a_wrong_link_count() -> None:
    data = image_bytes(tree_of(SAMPLE.replace(b"100644 2 ", b"100644 1 ")))
    assert b"/b/link 1 @100644 1 0 0 0 1.0 /a -" in dump_of_image(data)
    root = load_tree(ErofsImage(data))
    assert root.entries is not None
    assert root.entries[b"b"].entries[b"link"] is root.entries[b"a"]  # type: ignore[index]


def test_many_names_of_an_inode_with_large_xattrs() -> None:
    inode = Inode(stat.S_IFREG, xattrs={b"user.x": bytes(16_000)}, nlink=300)
    root = directory()
    root.entries = {b"%d" % number: inode for number in range(300)}
    image = image_bytes(root)
    assert len(image) < 300 * 16_000
    assert dump_of_image(image) == dump_bytes(root)
    assert image_bytes(load_tree(ErofsImage(image))) == image


def test_only_some_names_of_the_root() -> None:
    data = image_bytes(tree_of(SAMPLE))
    # A hard link whose first name is left out becomes a file of its own, as in the C tool.
    assert [line.split(b" ")[0] for line in dump_of_image(data, [b"b", b"x"]).splitlines()] == [
        b"/",
        b"/b",
        b"/b/link",
        b"/b/sub",
    ]
    assert b"/b/link 1 100644 2" in dump_of_image(data, [b"b"])


def test_whiteouts_of_composefs_rs_images_are_the_trees_own() -> None:
    data = image_bytes(tree_of(ROOT))
    assert dump_of_image(data).count(b"\n") == 1
    as_version_2 = patched(data, 12, struct.pack("<I", layout.VERSION_COMPOSEFS_RS))
    assert dump_of_image(as_version_2).count(b"\n") == 257


def test_overlapping_directories_are_refused() -> None:
    """Directories that share one large block would multiply the work."""
    lines = [ROOT] + [b"/d%02d 4096 40755 2 0 0 0 0.0 - - -\n" % i for i in range(60)]
    lines += [b"/d00/f%03d 0 100644 1 0 0 0 0.0 - - -\n" % i for i in range(200)]
    data = image_bytes(tree_of(b"".join(lines)))
    image = ErofsImage(data)
    first = image.lookup_path(b"/d00")
    assert first is not None
    head = data[first << 5 : (first << 5) + 32]
    for i in range(1, 60):
        other = image.lookup_path(b"/d%02d" % i)
        assert other is not None
        data = patched(data, other << 5, head)
    with pytest.raises(InputError, match="inodes overlap"):
        dump_of_image(data)


def test_open_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image_bytes(tree_of(SAMPLE)))
    with open_image(str(path)) as image:
        assert image.lookup_path(b"/b/sub") is not None
    path.write_bytes(b"")
    with pytest.raises(InputError, match="too short"), open_image(str(path)):
        pass
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    if os.fork() == 0:
        fifo.write_bytes(image_bytes(tree_of(SAMPLE)))
        os._exit(0)
    with open_image(str(fifo)) as image:
        assert image.lookup_path(b"/b/sub") is not None
    os.wait()


# --- makers --------------------------------------------------------------------------------------


def test_builtin_makers_agree() -> None:
    root = tree_of(SAMPLE)
    assert make_image(root) == make_image(root, maker=Maker.BUILTIN) == image_bytes(root)


def stand_in(directory: Path, script: str) -> str:
    program = directory / "mkcomposefs"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_without_mkcomposefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="mkcomposefs is not installed"):
        make_image(directory(), maker=Maker.MKCOMPOSEFS)


@pytest.mark.parametrize(
    "script", ["echo the reason >&2; exit 1", "cat >/dev/null; echo the reason >&2; exit 1"]
)
def test_mkcomposefs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path, script))
    with pytest.raises(InputError, match="mkcomposefs failed: the reason"):
        make_image(random_tree(1, 500, 0, sha512=False), maker=Maker.MKCOMPOSEFS)


def test_makers_that_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path, "cat"))
    with pytest.raises(CfsError, match=r"maker and mkcomposefs disagree: [0-9a-f]{64}, "):
        make_image(directory(), maker=Maker.BOTH)


def test_mkcomposefs_knows_no_sha512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", stand_in(tmp_path, "cat"))
    root = directory()
    root.entries = {b"a": Inode(stat.S_IFREG, size=1, payload=b"x", digest=bytes(64))}
    with pytest.raises(UsageError, match="no sha512"):
        make_image(root, maker=Maker.MKCOMPOSEFS)


@pytest.mark.interop
def test_both_makers_give_the_same(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    program = os.path.dirname(peer("mkcomposefs"))
    monkeypatch.setenv("PATH", f"{program}:{os.environ['PATH']}")
    root = load("config.dump.gz")
    assert make_image(root, maker=Maker.BOTH) == image_bytes(root)


@given(sha256_trees)
@settings(max_examples=20)
def test_a_loaded_tree_dumps_as_its_image(root: Inode) -> None:
    image = image_bytes(root)
    assert dump_bytes(load_tree(ErofsImage(image))) == dump_of_image(image)
