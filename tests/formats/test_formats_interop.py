"""Dumps and images held against the programs of the composefs world, and against the kernel.

CFS_TEST_TREES sets how many random trees go through the real `mkcomposefs` (CI: some thousands).
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.tree import Inode, directory, walk
from cfsrepo.images.load import load_tree
from cfsrepo.store.objects import ObjectStore
from cfsrepo.worktree.scan import scan_directory
from tests.conftest import Peer
from tests.formats.formats_helpers import (
    dump_bytes,
    image_bytes,
    random_tree,
    sha256_trees,
    tree_of,
    versions,
)
from tests.formats.test_golden import GOLDEN, load
from tests.kernel import kernel_mounts

pytestmark = pytest.mark.interop
CAPABILITY = bytes.fromhex("0100000200100000000000000000000000000000")
TREES = int(os.environ.get("CFS_TEST_TREES", "300"))


def original(program: str) -> str:
    """`program` if it is composefs's own; cfsctl's of that name counts links anew, for one."""
    asked = subprocess.run([program, "--version"], capture_output=True, check=False)
    if asked.returncode == 0:
        pytest.skip(f"needs composefs's own {os.path.basename(program)}, not cfsctl's")
    return program


@pytest.fixture(scope="session")
def mkcomposefs(peer: Peer) -> str:
    return original(peer("mkcomposefs"))


@pytest.fixture(scope="session")
def composefs_info(peer: Peer) -> str:
    return original(peer("composefs-info"))


def run(*argv: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(argv, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@given(sha256_trees, versions)
@settings(max_examples=TREES, suppress_health_check=list(HealthCheck), print_blob=True)
def test_random_trees_give_the_bytes_of_mkcomposefs(
    mkcomposefs: str, composefs_info: str, root: Inode, version: tuple[int, int]
) -> None:
    low, high = version
    dump = dump_bytes(root, low, high, keep_homes=True)
    options = [f"--min-version={low}", f"--max-version={high}", "--from-file"]
    image = run(mkcomposefs, *options, "-", "-", data=dump)
    assert image_bytes(root, low, high) == image
    with tempfile.NamedTemporaryFile() as file:
        file.write(image)
        file.flush()
        printed = run(composefs_info, "dump", file.name)
    assert dump_bytes(root, low, high) == printed


@given(sha256_trees, versions)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_fsck_finds_nothing(
    peer: Peer, tmp_path_factory: pytest.TempPathFactory, root: Inode, version: tuple[int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "image-for-fsck"
    path.write_bytes(image_bytes(root, *version))
    run(peer("fsck.erofs"), str(path))


@pytest.mark.parametrize("name", ["config.dump.gz", "cs9-x86_64-minimal.dump.gz", "longlink.dump"])
def test_fsck_finds_nothing_in_golden_images(peer: Peer, tmp_path: Path, name: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(image_bytes(load(name)))
    run(peer("fsck.erofs"), str(path))


def test_cfsctl_gives_the_same_ids(peer: Peer, tmp_path: Path) -> None:
    """Its dump through our reader and writer is its image, for both algorithms."""
    cfsctl = peer("cfsctl")
    top = tmp_path / "top"
    (top / "usr" / "bin").mkdir(parents=True)
    for size in (0, 1, 64, 65, 5000, 70_000):
        (top / "usr" / f"file{size}").write_bytes(
            bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        )
    os.link(top / "usr" / "file5000", top / "linked")
    (top / "usr" / "link").symlink_to("bin")
    os.mkfifo(top / "fifo")
    for name, algorithm in (("sha256", Algorithm.SHA256), ("sha512", Algorithm.SHA512)):
        dump = run(cfsctl, "--hash", name, "--no-repo", "create-dumpfile", str(top))
        theirs = run(cfsctl, "--hash", name, "--no-repo", "compute-id", str(top))
        ours = fsverity.digest(image_bytes(tree_of(dump)), algorithm)
        assert ours.hex() == theirs.decode().strip()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_images_of_version_2_are_cfsctls(peer: Peer, tmp_path: Path, algorithm: str) -> None:
    cfsctl = peer("cfsctl")
    top = tmp_path / "top"
    (top / "usr" / "big").mkdir(parents=True)
    (top / "medium").mkdir()
    for size in (0, 1, 64, 65, 4096, 70_000):
        (top / "usr" / f"file{size}").write_bytes((bytes(range(256)) * 300)[:size])
        (top / "medium" / f"copy{size}").write_bytes((bytes(range(256)) * 300)[:size])
    for number in range(700):
        (top / "usr" / "big" / f"{number}").write_bytes(b"%d" % number)
    for number in range(100):
        (top / "medium" / f"file-with-a-longer-name-{number}").write_bytes(b"%065d" % number)
    os.link(top / "usr" / "file4096", top / "linked")
    (top / "usr" / "link").symlink_to("t" * 1000)
    os.mkfifo(top / "fifo")
    os.utime(top / "usr" / "file64", ns=(0, 1_500_000_000))
    if os.geteuid() == 0:
        os.setxattr(top / "usr" / "file65", "security.capability", CAPABILITY)
        os.mknod(top / "usr" / "whiteout", stat.S_IFCHR)
    repository = str(tmp_path / "repository")
    options = ["--insecure", "--algorithm", f"fsverity-{algorithm}-12", "--erofs-version", "2"]
    run(cfsctl, "--repo", repository, "init", *options)
    run(cfsctl, "--repo", repository, "create-image", str(top), "name")
    dump = run(cfsctl, "--hash", algorithm, "--no-repo", "create-dumpfile", str(top))
    theirs = Path(repository, "images", "refs", "name").read_bytes()
    assert image_bytes(tree_of(dump), 2, 2) == theirs
    assert image_bytes(load_tree(ErofsImage(theirs)), 2, 2) == theirs


def test_cfsctl_reads_our_images(peer: Peer, tmp_path: Path) -> None:
    cfsctl = peer("cfsctl")
    os.symlink(cfsctl, tmp_path / "composefs-info")
    (tmp_path / "image").write_bytes(image_bytes(load("config.dump.gz")))
    listing = run(str(tmp_path / "composefs-info"), "ls", str(tmp_path / "image"))
    assert listing.count(b"\n") == sum(1 for _ in walk(load("config.dump.gz"))) - 1


@pytest.mark.root
def test_the_kernel_shows_the_tree(tmp_path: Path, as_root: None) -> None:
    """A scanned directory, its image mounted: the same files in the same state."""
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    for size in (0, 1, 64, 65, 4096, 100_000):
        (top / f"file{size}").write_bytes(os.urandom(size))
    for number in range(500):  # a directory of several blocks
        (top / "dir" / f"{number:03d}-{'x' * 40}").write_bytes(b"%d" % number)
    os.link(top / "file65", top / "dir" / "-linked")
    (top / "long").symlink_to("t" * 4000)
    (top / "short").symlink_to("file1")
    os.setxattr(top / "file65", "user.key", b"value")
    os.setxattr(top / "dir", "trusted.key", b"value")
    os.chown(top / "file1", 70_000, 80_000)
    os.chmod(top / "dir", 0o3711)
    os.utime(top / "file1", ns=(5, -123_456_789))
    os.mkfifo(top / "fifo", 0o600)
    store = ObjectStore(str(tmp_path / "objects"), Algorithm.SHA256, VerityPolicy.OFF)
    try:
        root = scan_directory(str(top), store=store)
    finally:
        store.close()
    image = tmp_path / "image"
    image.write_bytes(image_bytes(root))
    before = kernel_mounts.look(str(top), [])
    with kernel_mounts.composefs(str(image), str(tmp_path / "objects"), str(tmp_path)) as mount:
        shown = kernel_mounts.look(mount, [])
    for seen in (before, shown):
        for record in seen.values():
            if stat.S_ISDIR(int(record["mode"], 8)):
                record.pop("size", None)
                record.pop("nlink", None)
    assert shown == before


@pytest.mark.root
@pytest.mark.parametrize("seed", range(6))
def test_the_kernel_mounts_random_trees(tmp_path: Path, as_root: None, seed: int) -> None:
    """What EROFS alone shows of an image: every name, its type and its attributes."""
    root = random_tree(seed, 60, 4)
    for _, inode in walk(root):
        if inode.is_dir and 0xFFFFFFFF in (inode.uid, inode.gid):
            inode.uid = inode.gid = 7  # not even root gets into a directory of nobody's
    image = tmp_path / "image"
    image.write_bytes(image_bytes(root))
    mount = tmp_path / "mount"
    mount.mkdir()
    options = "ro,loop,noacl"  # the trees' ACLs are none
    with kernel_mounts.mounted("-t", "erofs", "-o", options, str(image), str(mount)):
        for path, inode in walk(root):
            info = os.lstat(os.fsencode(mount) + path)
            if inode.is_whiteout:
                assert stat.S_ISREG(info.st_mode)
                continue
            assert info.st_mode == inode.mode
            for shown, owner in ((info.st_uid, inode.uid), (info.st_gid, inode.gid)):
                assert shown == (65534 if owner == 0xFFFFFFFF else owner)  # -1 is nobody's
            assert info.st_mtime_ns == inode.mtime_sec * 10**9 + inode.mtime_nsec
            if inode.is_regular:
                assert info.st_size == inode.size
            elif inode.is_symlink:
                assert os.readlink(os.fsencode(mount) + path) == inode.payload


@pytest.mark.root
def test_the_kernel_finds_every_name_of_a_large_directory(tmp_path: Path, as_root: None) -> None:
    entries = {b"%x" % (number * 2654435761 % 2**32): directory() for number in range(20_000)}
    root = directory()
    root.entries = {b"d": Inode(stat.S_IFDIR | 0o755, entries=entries)}
    image = tmp_path / "image"
    image.write_bytes(image_bytes(root))
    mount = tmp_path / "mount"
    mount.mkdir()
    with kernel_mounts.mounted("-t", "erofs", "-o", "ro,loop", str(image), str(mount)):
        below = os.fsencode(mount) + b"/d/"
        assert sorted(os.listdir(below)) == sorted(entries)
        for name in entries:
            os.lstat(below + name)
        for name in (b"!", b"zzzz", b"8", b"fffffffff"):
            assert os.path.lexists(below + name) == (name in entries)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("should-fail-*.dump")))
def test_the_c_tool_refuses_what_we_refuse(mkcomposefs: str, name: str) -> None:
    argv = [mkcomposefs, "--from-file", "--print-digest-only", str(GOLDEN / name)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 1
