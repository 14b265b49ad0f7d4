"""Random bit flips under a mount: every byte that is read is right, or the read fails with EIO."""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cfsfuse import connection, unmounting
from cfsfuse.loop import Loop
from cfsfuse.operations import Operations
from cfsrepo.errors import CfsError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images.verified import ObjectDirectory
from cfsrepo.images.view import ImageView
from cfsrepo.store.repository import Repository
from tests.fuse.fuse_helpers import Sample, flip, sample

pytestmark = pytest.mark.fuse

FLIPS = int(os.environ.get("CFS_TEST_FLIPS", "60"))  # `make campaign-fuse`: more


@pytest.fixture(autouse=True)
def can_mount() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse open to users: as root run tools/setup")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3: apt-get install fuse3")


@contextmanager
def mounted(made: Sample, point: Path) -> Iterator[bytes]:
    """The sample at `point`, served by a child process."""
    path = os.fsencode(point)
    fd = connection.connect(path, "sample", [])
    child = os.fork()
    if child == 0:
        try:
            objects = ObjectDirectory(made.object_dir, merkle=str(made.object_dir) + ".merkle")
            with Loop(Operations(ImageView(made.image, objects)), fd) as server:
                server.run(lambda: None, lambda: None)
        finally:
            os._exit(0)
    os.close(fd)
    try:
        yield path
    finally:
        unmounting.unmount(path, lazy=True)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def by_cat(path: bytes, content: bytes) -> bytes | None:
    done = subprocess.run(["cat", "--", path], capture_output=True, check=False)
    if done.returncode:
        assert b"Input/output error" in done.stderr
        assert content.startswith(done.stdout)
        return None
    return done.stdout


def by_cp(path: bytes, content: bytes) -> bytes | None:
    target = path.replace(b"/mnt/", b"/copy-")
    done = subprocess.run(["cp", "--", path, target], capture_output=True, check=False)
    if done.returncode:
        assert b"Input/output error" in done.stderr
        return None
    return Path(os.fsdecode(target)).read_bytes()


def by_mmap(path: bytes, content: bytes) -> bytes | None:
    """In a child: a page that cannot be read is a SIGBUS."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # what pytest would print on the expected SIGBUS
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            whole = bytes(data)
        with open(sender, "wb") as pipe:
            pipe.write(whole)
        os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as pipe:
        found = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGBUS
        return None
    return found


def by_pread(path: bytes, content: bytes) -> bytes | None:
    generator = random.Random(len(content))
    fd = os.open(path, os.O_RDONLY)
    failed = False
    try:
        for _ in range(40):
            offset = generator.randrange(len(content))
            size = generator.choice((1, 512, 4096, 200_000))
            try:
                data = os.pread(fd, size, offset)
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017 - other reads succeed
                failed = True
            else:
                assert data == content[offset : offset + len(data)]
                assert data
    finally:
        os.close(fd)
    return None if failed else content


@pytest.mark.parametrize("read", [by_cat, by_cp, by_mmap, by_pread])
def test_flips_in_objects(tmp_path: Path, read: Callable[[bytes, bytes], bytes | None]) -> None:
    made = sample(tmp_path)
    generator = random.Random(read.__name__)
    names = sorted(name for name in made.objects if name.count(b"/") == 1)
    point = tmp_path / "mnt"
    point.mkdir()
    harmless = refused = 0
    for _ in range(FLIPS // 10):
        chosen = generator.sample(names, 6)
        good = {name: made.objects[name].read_bytes() for name in chosen}
        for name in chosen[:4]:
            damaged = bytearray(good[name])
            flip(damaged, generator)
            made.objects[name].write_bytes(damaged)
        with mounted(made, point) as path:
            for name in chosen:
                content = made.contents[name]
                found = read(path + name, content)
                if found is None:
                    refused += 1
                    # Two names may have one object.
                    assert made.objects[name].read_bytes() != content
                else:
                    assert found == content, name
                    harmless += 1
        for name in chosen:
            made.objects[name].write_bytes(good[name])
    assert refused > 0
    assert harmless > 0


def test_flips_while_it_is_mounted(tmp_path: Path) -> None:
    """What was checked and is cached stays right; what is read later is checked then."""
    made = sample(tmp_path)
    point = tmp_path / "mnt"
    point.mkdir()
    content = made.contents[b"/large"]
    with mounted(made, point) as path:
        fd = os.open(path + b"/large", os.O_RDONLY)
        assert os.pread(fd, 4096, 0) == content[:4096]
        with open(made.objects[b"/large"], "r+b") as file:
            for offset in range(0, len(content), 4096):
                file.seek(offset)
                file.write(bytes([content[offset] ^ 0xFF]))
        assert os.pread(fd, 4096, 0) == content[:4096]
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(fd, 4096, len(content) - 4096)
        os.close(fd)


def test_flips_in_the_image_are_found_at_the_mount(tmp_path: Path) -> None:
    made = sample(tmp_path)
    generator = random.Random(7)
    with Repository.init(str(tmp_path / "repository")) as repository:
        image_id = repository.add_image(made.image_file.read_bytes())
        file = Path(repository.objects.path, image_id[:2], image_id[2:])
        good = file.read_bytes()
        for _ in range(FLIPS):
            damaged = bytearray(good)
            flip(damaged, generator)
            file.write_bytes(damaged)
            with pytest.raises(CfsError):
                repository.open_image(image_id)
        file.write_bytes(good)
        with repository.open_image(image_id) as data:
            assert ErofsImage(data).inode_count > 600


@pytest.mark.parametrize("seed", range(4))
def test_an_image_that_changes_under_the_mount_only_fails(tmp_path: Path, seed: int) -> None:
    """The image is mapped: damage after the mount is wrong metadata or EIO, never a crash."""
    made = sample(tmp_path)
    point = tmp_path / "mnt"
    point.mkdir()
    generator = random.Random(seed)
    data = bytearray(made.image_file.read_bytes())
    for _ in range(300):
        flip(data, generator)
    made.image_file.write_bytes(data)
    codes = set()
    with mounted(made, point) as path:
        for directory, _, names in os.walk(path):
            for name in names:
                full = os.path.join(directory, name)
                try:
                    if os.lstat(full).st_size < 1 << 22 and os.path.isfile(full):
                        with open(full, "rb") as file:
                            file.read()
                except OSError as error:
                    codes.add(error.errno)
        assert os.stat(path)
    assert codes <= {errno.EIO, errno.ENOENT, errno.EINVAL, errno.ELOOP}
