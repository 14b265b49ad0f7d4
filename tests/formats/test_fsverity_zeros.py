"""Runs of zeros: the digest is that of the same bytes, without hashing each block."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import BLOCK_SIZE, Algorithm, Hasher

SIZES = st.one_of(
    st.integers(0, 3 * BLOCK_SIZE),
    st.integers(0, 300).map(lambda blocks: blocks * BLOCK_SIZE),
    st.integers(0, 9_000).map(lambda blocks: blocks * BLOCK_SIZE + 7),
)
PARTS = st.lists(st.tuples(st.booleans(), SIZES), max_size=5)


@settings(max_examples=40, deadline=None)
@given(PARTS, st.sampled_from(Algorithm))
@example([(True, 128 * BLOCK_SIZE), (True, 128 * BLOCK_SIZE)], Algorithm.SHA256)
@example([(False, 1), (True, 128 * 128 * BLOCK_SIZE), (False, 1)], Algorithm.SHA256)
@example([(True, 64 * 64 * 2 * BLOCK_SIZE - 1), (True, 1)], Algorithm.SHA512)
def test_any_mix_of_data_and_zeros(parts: list[tuple[bool, int]], algorithm: Algorithm) -> None:
    leaves: list[bytes] = []
    hasher = Hasher(algorithm, leaves.append)
    plain_leaves: list[bytes] = []
    plain = Hasher(algorithm, plain_leaves.append)
    for is_hole, size in parts:
        if is_hole:
            hasher.update_zeros(size)
            plain.update(bytes(size))
        else:
            hasher.update(b"x" * size)
            plain.update(b"x" * size)
    assert hasher.size == plain.size
    assert hasher.digest() == plain.digest()
    assert hasher.last_leaf() == plain.last_leaf()
    assert b"".join(leaves) == b"".join(plain_leaves)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_zeros_of_an_exabyte(algorithm: Algorithm) -> None:
    """What cannot be hashed block by block, and so shows that it is not."""
    hasher = Hasher(algorithm)
    hasher.update_zeros(1 << 60)
    level = fsverity.hash_blocks(bytes(BLOCK_SIZE), algorithm)
    blocks = (1 << 60) // BLOCK_SIZE
    in_block = BLOCK_SIZE // algorithm.digest_size
    while blocks > 1:
        last = blocks % in_block or in_block
        blocks = -(-blocks // in_block)
        full = fsverity.hash_blocks(level * in_block, algorithm)
        assert last == in_block or blocks == 1
        level = full if blocks > 1 else fsverity.hash_blocks(level * last, algorithm)
    assert hasher.digest() == fsverity.digest_of_root(level, 1 << 60, algorithm)
