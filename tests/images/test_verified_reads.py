"""Objects are checked before a byte of them is served: small ones whole, large ones by block."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.reader import Backing
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images.contents import Content
from cfsrepo.images.verified import WHOLE_MAX, DamagedError, ObjectDirectory, Verify, WholeContent
from cfsrepo.store.merkle import level_blocks
from cfsrepo.store.objects import object_path
from tests.fuse.fuse_helpers import flip, noise

SIZES = (65, 4096, 4097, WHOLE_MAX, WHOLE_MAX + 1, 3 * WHOLE_MAX + 4095)


class Store:
    """A directory of one object."""

    def __init__(self, path: Path, size: int, algorithm: Algorithm = Algorithm.SHA256) -> None:
        self.data = noise(size)
        self.size = size
        self.digest = fsverity.digest(self.data, algorithm)
        self.directory = path / "objects"
        self.merkle = path / "merkle"
        self.path = self.directory / object_path(self.digest)
        self.path.parent.mkdir(parents=True)
        self.path.write_bytes(self.data)
        self.backing = Backing(object_path(self.digest).encode(), self.digest)

    def opened(self, verify: Verify = Verify.AUTO, backing: Backing | None = None) -> Content:
        objects = ObjectDirectory(self.directory, verify=verify, merkle=str(self.merkle))
        try:
            return objects.open(backing or self.backing, self.size)
        finally:
            objects.close()


@pytest.fixture(params=SIZES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path, request.param)


def read_all(content: Content, size: int, step: int = 131072) -> bytes:
    return b"".join(bytes(content.read(offset, step)) for offset in range(0, size + 1, step))


@pytest.mark.parametrize("verify", list(Verify))
def test_good_objects_read_as_they_are(store: Store, verify: Verify) -> None:
    content = store.opened(verify)
    assert read_all(content, store.size) == store.data
    generator = random.Random(1)
    for _ in range(50):
        offset = generator.randrange(store.size + 10)
        size = generator.randrange(1, 200_000)
        assert bytes(content.read(offset, size)) == store.data[offset : offset + size]
        ready = content.read_ready(offset, size)
        assert ready is None or bytes(ready) == store.data[offset : offset + size]
    content.close()


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_both_algorithms(tmp_path: Path, algorithm: Algorithm) -> None:
    store = Store(tmp_path, 2 * WHOLE_MAX + 1, algorithm)
    assert read_all(store.opened(), store.size) == store.data
    tree = store.merkle / object_path(store.digest)
    assert tree.stat().st_size == 4096 * sum(level_blocks(store.size, algorithm))


def test_a_flipped_bit_is_never_served(store: Store) -> None:
    read_all(store.opened(), store.size)  # a large one has its tree now
    generator = random.Random(2)
    for _ in range(10):
        damaged = bytearray(store.data)
        at = flip(damaged, generator)
        store.path.write_bytes(damaged)
        refused = 0
        try:
            content = store.opened()
        except DamagedError as error:
            assert error.errno == errno.EIO  # noqa: PT017 - the other branch is right as well
            assert store.size <= WHOLE_MAX
            continue
        for offset in range(0, store.size, 4096):
            try:
                data = bytes(content.read(offset, 4096))
            except DamagedError:
                refused += 1
                assert offset <= at < offset + 4096
            else:
                assert data == store.data[offset : offset + 4096]
        assert refused == 1
        content.close()


def test_a_large_damaged_object_without_tree_is_refused_as_a_whole(tmp_path: Path) -> None:
    store = Store(tmp_path, WHOLE_MAX + 1)
    damaged = bytearray(store.data)
    flip(damaged, random.Random(3))
    store.path.write_bytes(damaged)
    with pytest.raises(DamagedError, match="does not have its digest"):
        store.opened()


def test_a_change_while_it_is_open_is_seen(store: Store) -> None:
    """Not by its time stamps: each byte that is served is checked itself."""
    content = store.opened()
    content.read(0, 1)
    before = os.stat(store.path)
    with open(store.path, "r+b") as file:
        file.seek(store.size - 1)
        file.write(bytes([store.data[-1] ^ 1]))
    os.utime(store.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if isinstance(content, WholeContent):
        assert read_all(content, store.size) == store.data
    else:
        with pytest.raises(DamagedError):
            read_all(content, store.size)


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
@pytest.mark.parametrize("verify", list(Verify))
def test_another_size_is_damage(store: Store, change: int, verify: Verify) -> None:
    os.truncate(store.path, store.size + change)
    with pytest.raises(DamagedError, match="bytes long"):
        store.opened(verify)


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    store.path.unlink()
    with pytest.raises(DamagedError, match="No such file") as caught:
        store.opened()
    assert caught.value.errno == errno.EIO
    assert object_path(store.digest) in str(caught.value)
    os.mkfifo(store.path)
    with pytest.raises(DamagedError, match="not a regular file"):
        store.opened()
    store.path.unlink()
    store.path.symlink_to("/etc/passwd")
    with pytest.raises(DamagedError):
        store.opened()


def test_the_path_stands_in_for_a_digest_that_the_image_does_not_give(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    named = Backing(store.backing.path, None)
    store.path.write_bytes(bytes(100))
    with pytest.raises(DamagedError, match="digest"):
        store.opened(backing=named)


def test_an_object_of_which_no_digest_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    (store.directory / "plain").write_bytes(store.data)
    unnamed = Backing(b"plain", None)
    assert read_all(store.opened(backing=unnamed), 100) == store.data
    with pytest.raises(DamagedError, match="no digest"):
        store.opened(Verify.ALWAYS, unnamed)


def test_off_serves_what_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    store.path.write_bytes(bytes(100))
    assert read_all(store.opened(Verify.OFF), 100) == bytes(100)


def test_a_damaged_tree_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * WHOLE_MAX)
    read_all(store.opened(), store.size)
    tree = store.merkle / object_path(store.digest)
    good = tree.read_bytes()
    generator = random.Random(4)
    for _ in range(10):
        damaged = bytearray(good)
        for _ in range(30):
            flip(damaged, generator)
        tree.write_bytes(damaged)
        assert read_all(store.opened(), store.size) == store.data
        assert tree.read_bytes() == good
    for wrong in (b"", good[:-1], good + b"x"):
        tree.write_bytes(wrong)
        assert read_all(store.opened(), store.size) == store.data


def test_a_forged_tree_does_not_help_a_forged_object(tmp_path: Path) -> None:
    store = Store(tmp_path, 2 * WHOLE_MAX)
    read_all(store.opened(), store.size)
    tree = store.merkle / object_path(store.digest)
    (tmp_path / "other").mkdir()
    forged = Store(tmp_path / "other", 2 * WHOLE_MAX)
    forged.data = bytes(2 * WHOLE_MAX)
    forged.digest = fsverity.digest(forged.data)
    forged.backing = Backing(object_path(forged.digest).encode(), forged.digest)
    path = forged.directory / object_path(forged.digest)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(forged.data)
    read_all(forged.opened(), forged.size)
    store.path.write_bytes(forged.data)
    tree.write_bytes((forged.merkle / object_path(forged.digest)).read_bytes())
    with pytest.raises(DamagedError):
        read_all(store.opened(), store.size)


def test_trees_live_without_a_place_to_be_stored(tmp_path: Path) -> None:
    store = Store(tmp_path, 2 * WHOLE_MAX)
    store.merkle.write_text("in the way")
    assert read_all(store.opened(), store.size) == store.data


def test_bytes_checked_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    objects = ObjectDirectory(store.directory)
    objects.open(store.backing, 100)
    assert objects.verified == 100


def test_nothing_waits_in_open_ready(tmp_path: Path) -> None:
    """What is in memory is opened at once; what would need a tree is left to the slow way."""
    store = Store(tmp_path, 100)
    objects = ObjectDirectory(store.directory)
    content = objects.open_ready(store.backing, 100)
    assert content is None or bytes(content.read(0, 100)) == store.data
    assert objects.open_ready(Backing(b"00/missing", None), 100) is None
    (tmp_path / "large").mkdir()
    large = Store(tmp_path / "large", WHOLE_MAX + 1)
    assert ObjectDirectory(large.directory).open_ready(large.backing, large.size) is None


def zeros_digest(size: int) -> bytes:
    """The digest of `size` zero bytes, a multiple of 4096, without hashing each block of them."""
    blocks = size // 4096
    leaf = fsverity.hash_blocks(bytes(4096), Algorithm.SHA256)
    while blocks > 1:
        full, rest = divmod(blocks, 128)
        # All blocks of a level are alike but the last one. A multiple of 128^k has no such.
        assert not rest
        leaf = fsverity.hash_blocks(leaf * 128, Algorithm.SHA256)
        blocks = full
    return fsverity.digest_of_root(leaf, size, Algorithm.SHA256)


def test_a_file_of_holes_is_checked_without_reading_them(tmp_path: Path) -> None:
    size = 128**3 * 4096  # 8 GiB
    digest = zeros_digest(size)
    path = tmp_path / "objects" / object_path(digest)
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(size)
    objects = ObjectDirectory(tmp_path / "objects")
    backing = Backing(object_path(digest).encode(), digest)
    content = objects.open(backing, size)
    for offset in (0, size // 2 + 5, size - 4096):
        assert bytes(content.read(offset, 4096)) == bytes(4096)
    with open(path, "r+b") as file:
        file.seek(size // 3)
        file.write(b"x")
    with pytest.raises(DamagedError):
        content.read(size // 3, 1)
    content.close()
    with pytest.raises(DamagedError):
        objects.open(backing, size)
