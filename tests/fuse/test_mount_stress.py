"""A mount under many hands at once: no error, no leak, and the same answers as the kernel mount.

Short here; `make campaign-fuse` runs the same for long and shows the numbers.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuse.fuse_helpers import sample
from tests.fuse.test_mount_damage import mounted
from tests.kernel.kernel_mounts import composefs

pytestmark = pytest.mark.fuse

SECONDS = float(os.environ.get("CFS_TEST_STRESS_SECONDS", "6"))
EXAMPLES = int(os.environ.get("CFS_TEST_EXAMPLES", "400"))


@pytest.fixture(autouse=True)
def can_mount() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse open to users: as root run tools/setup")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3: apt-get install fuse3")


def server_of(point: bytes) -> int:
    """The child of ours that serves the mount."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return int(children[-1])


def usage(pid: int) -> tuple[int, int]:
    """(resident KiB, open descriptors) of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))


def random_reads(point: bytes, contents: dict[bytes, bytes], seed: int, until: float) -> None:
    generator = random.Random(seed)
    names = list(contents)
    while time.monotonic() < until:
        name = generator.choice(names)
        fd = os.open(point + name, os.O_RDONLY)
        try:
            offset = generator.randrange(len(contents[name]) + 1)
            size = generator.choice((1, 4096, 100_000))
            assert os.pread(fd, size, offset) == contents[name][offset : offset + size]
        finally:
            os.close(fd)


def missing_names(point: bytes, contents: dict[bytes, bytes], seed: int, until: float) -> None:
    generator = random.Random(seed)
    while time.monotonic() < until:
        name = generator.choice((b"/many/no-%d", b"/%d", b"/deep/x%d")) % generator.getrandbits(16)
        with pytest.raises(FileNotFoundError):
            os.lstat(point + name)


def programs(point: bytes, contents: dict[bytes, bytes], seed: int, until: float) -> None:
    commands = [["find", point, "-ls"], ["tar", "-C", point, "-cf", "-", "."], ["ls", "-lR", point]]
    generator = random.Random(seed)
    while time.monotonic() < until:
        done = subprocess.run(
            generator.choice(commands),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        # tar says "socket ignored"; a size of 2^32 is fine.
        assert done.returncode == 0, done.stderr


def killed_readers(point: bytes, contents: dict[bytes, bytes], seed: int, until: float) -> None:
    generator = random.Random(seed)
    while time.monotonic() < until:
        reader = subprocess.Popen(
            ["tar", "-C", point, "-cf", "-", "."],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(generator.random() / 10)
        reader.send_signal(signal.SIGKILL)
        reader.wait()


def test_many_processes_at_once(tmp_path: Path) -> None:
    made = sample(tmp_path)
    point = tmp_path / "mnt"
    point.mkdir()
    with mounted(made, point) as path:
        server = server_of(path)
        until = time.monotonic() + SECONDS
        work: list[Callable[[bytes, dict[bytes, bytes], int, float], None]] = [
            random_reads,
            random_reads,
            missing_names,
            programs,
            killed_readers,
        ]
        # Warm up first: buffers and threads that a server has in the end are no leak.
        for task in work:
            task(path, made.contents, 0, time.monotonic() + 0.5)
        before = usage(server)
        children = []
        for seed in range(20):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    work[seed % len(work)](path, made.contents, seed, until)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        after = usage(server)
    print(f"server before: {before[0]} KiB, {before[1]} descriptors; after: {after[0]}, {after[1]}")
    assert codes == [0] * 20
    assert after[1] <= before[1] + 140  # files kept open, within their bound
    assert after[0] <= before[0] + 48_000  # and the 32 MiB of contents that may be kept


Answer = Any


def ask(root: bytes, operation: str, path: bytes, numbers: tuple[int, int]) -> Answer:
    """What an operation says, errors as their number; comparable between two mounts."""
    full = os.path.join(root, path)
    offset, size = numbers
    try:
        if operation == "stat":
            status = os.lstat(full)
            return status[:1] + status[3:10] + (status.st_rdev, status.st_blocks)
        if operation == "list":
            return sorted(os.listdir(full))
        if operation == "xattrs":
            names = os.listxattr(full, follow_symlinks=False)
            return sorted((name, value_of(full, name)) for name in names)
        if operation == "link":
            return os.readlink(full)
        if operation == "access":
            return [os.access(full, mode) for mode in (os.R_OK, os.X_OK, os.W_OK)]
        if operation == "write":
            os.close(os.open(full, os.O_WRONLY | os.O_NONBLOCK))
            return "opened"
        fd = os.open(full, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if operation == "read":
                return os.pread(fd, size, offset)
            if operation == "data":
                return os.lseek(fd, offset, os.SEEK_DATA)
            return os.lseek(fd, offset, os.SEEK_HOLE)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno


def value_of(path: bytes, name: str) -> bytes | int:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        return error.errno or 0


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bytes, bytes]]:
    """The sample, mounted by us and by the kernel."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo make test")
    path = tmp_path_factory.mktemp("both")
    made = sample(path)
    point = path / "mnt"
    point.mkdir()
    with (
        composefs(str(made.image_file), str(made.object_dir), str(path)) as kernel,
        mounted(made, point) as ours,
    ):
        yield ours, os.fsencode(kernel)


PATHS = [
    b"",
    b".",
    b"inline",
    b"empty",
    b"file-65",
    b"file-4096",
    b"file-4097",
    b"file-131073",
    b"large",
    b"old",
    b"far",
    b"link-a",
    b"7f",
    b"7f/link-c",
    b"7f/..",
    b"symlink",
    b"long-symlink",
    b"dangling",
    b"null",
    b"disk",
    b"fifo",
    b"socket",
    b"00",
    b"01",
    b"!first",
    b"-",
    b"n" * 255,
    b"n" * 256,
    b"odd \t\n\\\xff\xfe",
    b"many",
    b"many/entry-0000",
    b"many/entry-0599",
    b"many/entry-0600",
    b"many/entry",
    b"inline/below",
    b"empty-dir",
    b"deep/" + b"d/" * 59 + b"d/bottom",
    b"xattrs",
    b"whited",
    b"whited/gone",
    b"whited/here",
]
# Devices do not open on a FUSE mount (nodev), and sockets nowhere.
FILES = [b"inline", b"empty", b"file-65", b"file-4096", b"large", b"whited/gone", b"no"]
OPENABLE = [path for path in PATHS if path not in (b"null", b"disk", b"socket", b"fifo")]


@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_answer_is_the_kernels(both: tuple[bytes, bytes], data: st.DataObject) -> None:
    ours, kernel = both
    operation = data.draw(
        st.sampled_from(["stat", "list", "xattrs", "link", "access", "write", "read", "data"])
    )
    opens = operation in ("write", "read", "data")
    # Where the holes of a directory are is each driver's own idea.
    paths = FILES if operation == "data" else OPENABLE if opens else PATHS
    path = data.draw(st.sampled_from(paths))
    offset = data.draw(st.sampled_from([0, 1, 4095, 4096, 131072, 3 << 20, 4 << 20]))
    size = data.draw(st.sampled_from([1, 4096, 131073]))
    if path == b"long-symlink" and operation not in ("stat", "link", "xattrs"):
        return  # followed, it is over PATH_MAX by itself
    expected = ask(kernel, operation, path, (offset, size))
    assert ask(ours, operation, path, (offset, size)) == expected, (operation, path)


def test_directory_positions_are_kept(both: tuple[bytes, bytes]) -> None:
    """A listing that is read in two halves by another process's seek is the whole listing."""
    ours, kernel = both
    for root in (ours, kernel):
        fd = os.open(root + b"/many", os.O_RDONLY)
        try:
            names = [entry.name for entry in os.scandir(fd)]
            os.lseek(fd, 0, os.SEEK_SET)
            again = [entry.name for entry in os.scandir(fd)]
        finally:
            os.close(fd)
        assert names == again
        assert len(set(names)) == 600


def test_programs_run_from_the_mount(tmp_path: Path) -> None:
    from cfsrepo.formats.tree import directory
    from tests.fuse.fuse_helpers import Maker

    program = shutil.which("true")
    assert program is not None
    maker = Maker()
    root = directory()
    assert root.entries is not None
    root.entries[b"true"] = maker.file(Path(os.path.realpath(program)).read_bytes(), 0o755)
    root.entries[b"plain"] = maker.file(Path(os.path.realpath(program)).read_bytes(), 0o644)
    made = maker.write(root, tmp_path)
    point = tmp_path / "mnt"
    point.mkdir()
    with mounted(made, point) as path:
        assert subprocess.run([path + b"/true"], check=False).returncode == 0
        with pytest.raises(PermissionError) as caught:
            subprocess.run([path + b"/plain"], check=False)
        assert caught.value.errno == errno.EACCES


def test_a_large_directory_and_a_huge_file(tmp_path: Path) -> None:
    """100,000 names in one directory, 100 GB in one file, beside the kernel's answers."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo make test")
    from cfsrepo.formats.tree import Inode, directory
    from tests.fuse.fuse_helpers import Maker

    maker = Maker()
    root, many = directory(), directory()
    assert root.entries is not None
    assert many.entries is not None
    root.entries[b"many"] = many
    for number in range(100_000):
        many.entries[b"%05d" % number + b"x" * (number % 250)] = maker.file(b"")
    huge = 100 << 30
    root.entries[b"huge"] = Inode(stat.S_IFREG | 0o644, size=huge, payload=b"sparse")
    made = maker.write(root, tmp_path)
    with open(made.object_dir / "sparse", "wb") as file:
        file.truncate(huge)
        file.seek(huge - 3)
        file.write(b"end")
    point = tmp_path / "mnt"
    point.mkdir()
    with (
        composefs(str(made.image_file), str(made.object_dir), str(tmp_path)) as kernel,
        mounted(made, point) as ours,
    ):
        theirs = os.fsencode(kernel)
        names = os.listdir(ours + b"/many")
        assert sorted(names) == sorted(os.listdir(theirs + b"/many")) == sorted(many.entries)
        for name in random.Random(9).sample(names, 100):
            path = b"many/" + name
            assert ask(ours, "stat", path, (0, 0)) == ask(theirs, "stat", path, (0, 0))
        for offset in (0, 1 << 32, huge // 2, huge - 5, huge):
            assert ask(ours, "read", b"huge", (offset, 4096)) == ask(
                theirs, "read", b"huge", (offset, 4096)
            )
        assert os.stat(ours + b"/huge").st_size == huge
