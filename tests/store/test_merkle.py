"""Merkle trees of large objects: stored when an object is, good for what they are checked to be."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.errors import DigestMismatchError
from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm, Buffer
from cfsrepo.store import merkle
from cfsrepo.store.merkle import MerkleStore, TreeDamagedError, level_blocks
from cfsrepo.store.objects import object_path
from cfsrepo.store.objectwriter import TREE_MIN
from cfsrepo.store.repository import Repository
from tests.fuse.fuse_helpers import noise

SIZES = [4097, 128 * 4096, 128 * 4096 + 1, 128 * 128 * 4096 + 1]


def reader(data: bytes) -> Callable[[int, int], Buffer]:
    return lambda offset, size: data[offset : offset + size]


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", SIZES)
def test_every_block_is_known(tmp_path: Path, size: int, algorithm: Algorithm) -> None:
    data = noise(size)
    digest = fsverity.digest(data, algorithm)
    store = MerkleStore(str(tmp_path / "merkle"), algorithm)
    assert store.load(size, digest) is None
    tree = store.make(reader(data), size, digest)
    generator = random.Random(size)
    last = (size - 1) // BLOCK_SIZE
    for block in [0, last, *(generator.randrange(last + 1) for _ in range(30))]:
        part = data[block * BLOCK_SIZE : (block + generator.randrange(1, 40)) * BLOCK_SIZE]
        assert tree.check(block, part)
        wrong = bytearray(part)
        wrong[generator.randrange(len(wrong))] ^= 1
        assert not tree.check(block, wrong)
    tree.close()
    again = store.load(size, digest)
    assert again is not None
    assert again.check(0, data[:BLOCK_SIZE])
    again.close()
    file = tmp_path / "merkle" / object_path(digest)
    assert file.stat().st_size == BLOCK_SIZE * sum(level_blocks(size, algorithm))
    assert [path.name for path in (tmp_path / "merkle").iterdir()] == [file.parent.name]


def test_levels() -> None:
    assert level_blocks(4096, Algorithm.SHA256) == []
    assert level_blocks(4097, Algorithm.SHA256) == [1]
    assert level_blocks(128 * 4096, Algorithm.SHA256) == [1]
    assert level_blocks(128 * 4096 + 1, Algorithm.SHA256) == [2, 1]
    assert level_blocks(128 * 4096, Algorithm.SHA512) == [2, 1]


def test_a_tree_of_something_else_is_not_made(tmp_path: Path) -> None:
    data = noise(10_000)
    store = MerkleStore(str(tmp_path), Algorithm.SHA256)
    for read in (reader(data[:-1]), reader(bytes(10_000))):
        with pytest.raises(DigestMismatchError):
            store.make(read, 10_000, fsverity.digest(data))
    assert os.listdir(tmp_path) == []


def test_damage_of_a_tree_is_not_damage_of_the_data(tmp_path: Path) -> None:
    data = noise(200 * BLOCK_SIZE)
    digest = fsverity.digest(data)
    store = MerkleStore(str(tmp_path), Algorithm.SHA256)
    store.make(reader(data), len(data), digest).close()
    file = tmp_path / object_path(digest)
    good = file.read_bytes()
    for at in (0, 128 * 32 - 1, 128 * 32, len(good) - 1):
        damaged = bytearray(good)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        tree = store.load(len(data), digest)
        assert tree is not None
        with pytest.raises(TreeDamagedError):
            tree.check(0, data)
        tree.close()


def test_a_checked_block_is_not_read_again(tmp_path: Path) -> None:
    """What the file says later does not matter: it could be made to fit a forged object."""
    data = noise(10 * BLOCK_SIZE)
    digest = fsverity.digest(data)
    store = MerkleStore(str(tmp_path), Algorithm.SHA256)
    tree = store.make(reader(data), len(data), digest)
    assert tree.check(0, data[:BLOCK_SIZE])
    (tmp_path / object_path(digest)).write_bytes(bytes(BLOCK_SIZE))
    assert tree.check(9, data[9 * BLOCK_SIZE :])
    tree.close()


@pytest.mark.parametrize("tail", [0, 1, 4095])
def test_storing_a_large_object_stores_its_tree(tmp_path: Path, tail: int) -> None:
    data = noise(TREE_MIN + BLOCK_SIZE + tail)
    with Repository.init(str(tmp_path / "repository")) as repository:
        with repository.objects.writer() as writer:
            for offset in range(0, len(data), 100_000):
                writer.write(data[offset : offset + 100_000])
            digest = writer.commit()
        if repository.objects.verity:
            pytest.skip("the kernel has the tree: this file system has fs-verity")
        store = MerkleStore(os.path.join(repository.path, merkle.DIRECTORY), repository.algorithm)
        tree = store.load(len(data), digest)
        assert tree is not None
        assert tree.check(0, data)
        tree.close()
        with repository.objects.writer() as writer:
            writer.write(bytes(TREE_MIN))
            small = writer.commit()
        assert store.load(TREE_MIN, small) is None


def test_a_full_disk_costs_the_tree_its_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(10_000)
    store = MerkleStore(str(tmp_path / "merkle"), Algorithm.SHA256)
    real = os.open

    def full(path: str | bytes, flags: int, mode: int = 0o777, **more: int) -> int:
        if flags & os.O_EXCL and str(tmp_path) in os.fsdecode(path):
            raise OSError(28, "No space left on device")
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", full)
    tree = store.make(reader(data), len(data), fsverity.digest(data))
    assert tree.check(0, data)
    tree.close()
