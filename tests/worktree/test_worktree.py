"""Images as bare-user trees and back: nothing is lost."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import NotFoundError
from cfsrepo.formats import fsverity
from cfsrepo.formats.metarecord import Meta
from cfsrepo.formats.tree import Inode, directory, walk
from cfsrepo.images import names
from cfsrepo.images.imagetree import load_image
from cfsrepo.oci.importer import pull
from cfsrepo.progress import NoProgress
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.worktree import attributes, recordedit
from cfsrepo.worktree.checkout import ObjectContents, select
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.recordedit import check_records
from cfsrepo.worktree.scan import scan_bare_tree
from cfsrepo.worktree.treewriter import TreeWriter
from tests.conftest import User
from tests.oci.oci_builder import LayoutBuilder, hardlink, member
from tests.oci.oci_builder import archive as tar
from tests.oci.oci_builder import directory as tar_directory
from tests.worktree.worktree_helpers import DATA, checked_out, image_of, regular, sample


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


def test_round_trip(repo: Repository, tmp_path: object) -> None:
    image = image_of(repo, sample(repo), "image")
    tree = checked_out(repo, "image", f"{tmp_path}/tree")
    assert attributes.is_bare_user(tree)
    made = commit(repo, tree, "again")
    assert made.image_id == image
    assert names.resolve(repo, "again").image_id == image
    assert (made.files_without_record, made.files_chmodded) == (0, 0)
    assert list(check_records(tree)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_many_files(workers: int, repo: Repository, tmp_path: object) -> None:
    """More than one batch, so that several processes work."""
    root = directory()
    assert root.entries is not None
    for number in range(20):
        below = root.entries[b"%d" % number] = directory()
        assert below.entries is not None
        for file in range(250):
            below.entries[b"%d" % file] = regular(repo, b"%d %d " % (number, file) * (file % 20))
    root.nlink = 22
    image = image_of(repo, root, "image")
    tree = checked_out(repo, "image", f"{tmp_path}/tree", workers=workers)
    assert commit(repo, tree, workers=workers).image_id == image


def test_what_is_on_disk(repo: Repository, tmp_path: object) -> None:
    root = sample(repo)
    image_of(repo, root, "image")
    tree = os.fsencode(checked_out(repo, "image", f"{tmp_path}/tree"))
    for path, inode in walk(root):
        info = os.lstat(tree + path)
        record = recordedit.read_record(tree + path)
        if path in (b"/link", b"/dir/hard-real-link"):
            assert stat.S_ISLNK(info.st_mode)
            assert os.readlink(tree + path) == inode.payload
            assert info.st_mtime_ns == 1_234_567_890_000_000_009
            assert record is None
            continue
        assert stat.S_ISDIR(info.st_mode) == inode.is_dir
        assert stat.S_ISREG(info.st_mode) != inode.is_dir
        permissions = stat.S_IMODE(info.st_mode)
        assert permissions == (inode.mode & 0o755) | (0o700 if inode.is_dir else 0o600)
        assert permissions & 0o7022 == 0
        assert record == Meta.of(inode)
        if inode.is_symlink:
            with open(tree + path, "rb") as file:
                assert file.read() == inode.payload
        elif not inode.is_regular and not inode.is_dir:
            assert info.st_size == 0
    assert os.path.samefile(tree + b"/plain", tree + b"/dir/hard")
    assert os.stat(tree + b"/plain").st_nlink == 2  # no hard link to the object


KINDS = [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]
IDS = st.sampled_from([0, 0, 1, 1000, 2**32 - 1])
NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c"]),
    st.binary(min_size=1, max_size=12).map(
        lambda name: name.replace(b"\0", b"0").replace(b"/", b"1")
    ),
).filter(lambda name: name not in (b".", b".."))
XATTRS = st.dictionaries(
    st.binary(max_size=8)
    .map(lambda name: b"user." + name.replace(b"\0", b"0") + b"x")
    .filter(lambda name: not name.startswith(b"user.cfs.")),  # these are left out of a checkout
    st.binary(max_size=20),
    max_size=2,
)


@st.composite
def trees(draw: st.DrawFn) -> tuple[Inode, list[tuple[Inode, bytes]]]:
    """A random tree, and its regular files with their contents (not yet stored)."""
    files: list[tuple[Inode, bytes]] = []
    leaves: list[Inode] = []

    def metadata(inode: Inode) -> None:
        inode.uid, inode.gid = draw(IDS), draw(IDS)
        inode.mtime_sec = draw(
            st.one_of(st.integers(-(2**33), 2**35), st.sampled_from([0, 2**31 - 1, -(2**31)]))
        )
        inode.mtime_nsec = draw(st.sampled_from([0, 0, 1, 999_999_999]))
        inode.xattrs = draw(XATTRS) or None

    root = directory(draw(st.integers(0, 0o7777)))
    metadata(root)
    directories = [root]
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(directories))
        assert parent.entries is not None
        name = draw(NAMES)
        if name in parent.entries:
            continue
        choice = draw(st.integers(0, 9))
        if choice < 3:
            inode = directory(draw(st.integers(0, 0o7777)))
            directories.append(inode)
            parent.nlink += 1
        elif choice == 3 and leaves:
            inode = draw(st.sampled_from(leaves))
            inode.nlink += 1
            parent.entries[name] = inode
            continue
        elif choice < 7:
            inode = Inode(stat.S_IFREG | draw(st.integers(0, 0o7777)))
            size = draw(st.sampled_from([0, 1, 64, 65, 4096, 5000]))
            files.append((inode, bytes([draw(st.integers(0, 255))]) * size))
            leaves.append(inode)
        else:
            kind = draw(st.sampled_from(KINDS))
            inode = Inode(kind | draw(st.one_of(st.just(0o777), st.integers(0, 0o7777))))
            leaves.append(inode)
            if kind == stat.S_IFLNK:
                inode.payload = draw(st.binary(min_size=1, max_size=100)).replace(b"\0", b"0")
                inode.size = len(inode.payload)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                inode.rdev = os.makedev(draw(st.integers(0, 4095)), draw(st.integers(0, 0xFFFFF)))
        plain = stat.S_ISLNK(inode.mode) and draw(st.booleans())
        if plain:
            inode.mode = stat.S_IFLNK | 0o777
            inode.mtime_sec = draw(st.integers(0, 2**31))
        else:
            metadata(inode)
        parent.entries[name] = inode
    return root, files


@settings(max_examples=500, deadline=None)
@given(trees())
def test_random_trees(tree: tuple[Inode, list[tuple[Inode, bytes]]]) -> None:
    root, files = tree
    path = tempfile.mkdtemp(prefix="cfs-test-")
    try:
        with Repository.init(f"{path}/repo") as repo:
            for inode, data in files:
                stored = regular(repo, data)
                inode.size, inode.content = stored.size, stored.content
                inode.digest, inode.payload = stored.digest, stored.payload
            image = image_of(repo, root, "image")
            made = commit(repo, checked_out(repo, "image", f"{path}/tree"))
            assert made.image_id == image
    finally:
        shutil.rmtree(path)


# -- parts of an image ----------------------------------------------------------------------------


def test_only_some_paths(repo: Repository, tmp_path: object) -> None:
    image_of(repo, sample(repo), "image")
    tree = checked_out(repo, "image", f"{tmp_path}/tree", [b"/dir/locked", b"plain"])
    assert sorted(os.listdir(tree)) == ["dir", "plain"]
    assert os.listdir(f"{tree}/dir") == ["locked"]
    assert os.listdir(f"{tree}/dir/locked") == ["file"]
    found = scan_bare_tree(tree).root
    whole = load_image(repo, "image")
    for path in (b"/", b"/dir", b"/dir/locked", b"/plain"):
        assert Meta.of(dict(walk(found))[path]) == Meta.of(dict(walk(whole))[path])


def test_select() -> None:
    root = directory()
    assert root.entries is not None
    root.entries[b"a"] = directory()
    root.entries[b"f"] = Inode(stat.S_IFREG)
    below = root.entries[b"a"]
    assert below.entries is not None
    below.entries.update({b"x": Inode(stat.S_IFREG), b"y": Inode(stat.S_IFREG)})

    def paths(*selected: bytes) -> list[bytes]:
        return [path for path, _ in walk(select(root, selected))][1:]

    assert paths(b"a/x") == [b"/a", b"/a/x"]
    assert paths(b"a/x", b"a") == paths(b"a", b"a/x") == [b"/a", b"/a/x", b"/a/y"]
    assert paths(b"/") == paths(b".") == [b"/a", b"/a/x", b"/a/y", b"/f"]
    assert paths(b"//a/./y", b"f") == [b"/a", b"/a/y", b"/f"]
    for path in (b"b", b"a/z", b"f/x", b"a/x/y", b".."):
        with pytest.raises(NotFoundError, match="no such path"):
            paths(path)
    assert list(below.entries) == [b"x", b"y"]  # the image's tree is as it was


def test_paths_longer_than_a_system_call_takes(repo: Repository, tmp_path: object) -> None:
    root = directory()
    inode = root
    for _ in range(30):
        assert inode.entries is not None
        inode.nlink = 3
        inode.entries[b"d" * 200] = inode = directory()
    assert inode.entries is not None
    inode.entries[b"file"] = regular(repo, DATA)
    with TreeWriter(f"{tmp_path}/tree", ObjectContents(repo.objects)) as writer:
        writer.write(root, NoProgress())
    found = scan_bare_tree(f"{tmp_path}/tree").root
    paths = [path for path, _ in walk(found)]
    assert len(paths[-1]) == 30 * 201 + 5
    assert dict(walk(found))[paths[-1]].digest == fsverity.digest(DATA)
    shutil.rmtree(f"{tmp_path}/tree")


# -- as a user without rights ---------------------------------------------------------------------


def test_as_an_unprivileged_user(user: User, tmp_path: object) -> None:
    layout = LayoutBuilder(os.path.join(user.home, "layout"))
    pax = {b"SCHILY.xattr.security.capability": bytes.fromhex("01000002" + "00" * 16)}
    layout.image(
        tar(
            tar_directory(b"usr"),
            member(b"usr/suid", b"x" * 100, mode=0o4755),
            member(b"usr/cap", b"x" * 100, pax=pax),
            member(b"null", kind=b"3", device=(1, 3), mode=0o666),
            member(b"secret", b"root's alone", mode=0o600, uid=0),
            tar_directory(b"closed", mode=0),
            member(b"closed/inside", b"i" * 70, uid=12345),
            hardlink(b"again", b"usr/suid"),
        )
    )
    assert user.cfs("init").returncode == 0
    pulled = user.cfs("pull", layout.source(), "image")
    assert pulled.returncode == 0, pulled.stderr
    tree = os.path.join(user.home, "tree")
    done = user.cfs("checkout", "image", tree)
    assert done.returncode == 0, done.stderr
    done = user.cfs("commit", tree, "again")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == pulled.stdout.split()[0]
    assert os.stat(f"{tree}/usr/suid").st_mode & 0o7000 == 0


def test_an_image_from_oci(repo: Repository, tmp_path: object) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(tar(tar_directory(b"usr", mode=0o700), member(b"f", DATA, uid=4)))
    pulled = pull(repo, layout.source(), "image")
    made = commit(repo, checked_out(repo, "image", f"{tmp_path}/tree"))
    assert made.image_id == pulled.image_id


@pytest.mark.root
@pytest.mark.usefixtures("as_root")
def test_blocks_are_shared_where_they_can_be(tmp_path: object) -> None:
    """On xfs a checkout and a commit of large files take hardly any space."""
    mkfs = shutil.which("mkfs.xfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if mkfs is None:
        pytest.skip("needs mkfs.xfs: apt-get install xfsprogs")
    disk, mount = f"{tmp_path}/disk", f"{tmp_path}/mount"
    with open(disk, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run([mkfs, "-q", disk], check=True)
    os.mkdir(mount)
    subprocess.run(["mount", "-o", "loop", disk, mount], check=True)
    try:
        size = 20 << 20
        with Repository.init(f"{mount}/repo") as repo:
            root = directory()
            assert root.entries is not None
            with repo.objects.writer() as writer:
                writer.write(os.urandom(size))
                digest = writer.commit()
            payload = object_path(digest).encode()
            root.entries[b"f"] = Inode(
                stat.S_IFREG | 0o644, size=size, digest=digest, payload=payload
            )
            image = image_of(repo, root, "image")

            def used() -> int:
                os.sync()
                info = os.statvfs(mount)
                return (info.f_blocks - info.f_bfree) * info.f_frsize

            before = used()
            tree = checked_out(repo, "image", f"{mount}/tree")
            assert commit(repo, tree).image_id == image
            with open(f"{tree}/f", "r+b") as file:
                file.write(b"edited in place")
            made = commit(repo, tree, "edited")
            assert made.image_id != image
            assert used() - before < size // 4
            # The object that it was checked out from is as it was.
            assert fsverity.digest(repo.objects.read(digest)) == digest
    finally:
        subprocess.run(["umount", mount], check=True)
