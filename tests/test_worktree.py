"""Images as bare-user trees and back: nothing is lost, edits count, nothing is followed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo import fsverity, linux, meta, metaedit, treewriter
from cfsrepo.erofs.writer import write_image
from cfsrepo.errors import (
    InputError,
    LimitError,
    NotFoundError,
    RepositoryError,
    SystemFailure,
    UsageError,
)
from cfsrepo.meta import Meta
from cfsrepo.metaedit import Changes, change_record, check_records, read_record
from cfsrepo.objects import object_path
from cfsrepo.oci.importer import pull
from cfsrepo.progress import NoProgress
from cfsrepo.repository import Repository
from cfsrepo.tree import Inode, directory, walk
from cfsrepo.treescan import Scan
from cfsrepo.treewriter import TreeWriter, open_below
from cfsrepo.worktree import ObjectContents, Worktree, load_image, select
from tests.conftest import User
from tests.oci_builder import LayoutBuilder, hardlink, member
from tests.oci_builder import archive as tar
from tests.oci_builder import directory as tar_directory

DATA = bytes(range(256)) * 30


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


def regular(repo: Repository, data: bytes, mode: int = 0o644, **fields: int) -> Inode:
    inode = Inode(stat.S_IFREG | mode, size=len(data), **fields)
    if len(data) > 64:
        inode.digest = repo.objects.put(data)
        inode.payload = object_path(inode.digest).encode()
    else:
        inode.content = data or None
    return inode


def symlink(target: bytes, **fields: int) -> Inode:
    return Inode(stat.S_IFLNK | 0o777, payload=target, size=len(target), **fields)


def sample(repo: Repository) -> Inode:
    """A tree with something of everything."""
    root = directory(0o751)
    entries = root.entries
    assert entries is not None
    root.mtime_sec, root.mtime_nsec = 1_500_000_000, 7
    entries[b"plain"] = regular(repo, DATA, mtime_sec=1_600_000_000, mtime_nsec=123)
    entries[b"small"] = regular(repo, b"small", 0o400, uid=5, gid=6)
    entries[b"empty"] = regular(repo, b"", 0)
    entries[b"suid"] = regular(repo, DATA[:100], 0o4755)
    entries[b"open"] = regular(repo, b"x", 0o1777)
    entries[b"big-ids"] = regular(repo, b"x", uid=2**32 - 2, gid=2**31)
    entries[b"old"] = regular(repo, b"x", mtime_sec=-5, mtime_nsec=1)
    entries[b"ancient"] = regular(repo, b"x", mtime_sec=-(2**40), mtime_nsec=1)
    entries[b"far"] = regular(repo, b"x", mtime_sec=253402300800, mtime_nsec=5)
    entries[b"link"] = symlink(b"plain", mtime_sec=1_234_567_890, mtime_nsec=9)
    entries[b"owned-link"] = symlink(b"../over there\n", uid=7)
    entries[b"odd-link"] = symlink(b"x")
    entries[b"odd-link"].mode = stat.S_IFLNK | 0o700
    entries[b"far-link"] = symlink(b"x", mtime_sec=253402300800)
    entries[b"null"] = Inode(stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3), gid=3)
    entries[b"disk"] = Inode(stat.S_IFBLK | 0o660, rdev=os.makedev(259, 70000))
    entries[b"whiteout"] = Inode(stat.S_IFCHR)
    entries[b"fifo"] = Inode(stat.S_IFIFO | 0o600)
    entries[b"socket"] = Inode(stat.S_IFSOCK | 0o777)
    entries[b"attributes"] = regular(repo, b"x")
    entries[b"attributes"].xattrs = {b"security.capability": bytes(20), b"user.a b=": b"\xff\n"}
    entries[b"not-utf8-\xff\xfe"] = regular(repo, b"x")
    entries[b"new\nline \\"] = regular(repo, b"x")
    below = entries[b"dir"] = directory(0o2777)
    below.uid, below.mtime_sec, below.xattrs = 8, 42, {b"trusted.x": b"y"}
    assert below.entries is not None
    below.entries[b"hard"] = entries[b"plain"]
    below.entries[b"hard-link"] = entries[b"owned-link"]
    below.entries[b"hard-real-link"] = entries[b"link"]
    below.entries[b"hard-device"] = entries[b"null"]
    for name in (b"plain", b"owned-link", b"link", b"null"):
        entries[name].nlink = 2
    deep = below.entries[b"locked"] = directory(0)
    assert deep.entries is not None
    deep.entries[b"file"] = regular(repo, b"in a directory of mode 0")
    for _, inode in walk(root):
        if inode.entries is not None:
            inode.nlink = 2 + sum(child.is_dir for child in inode.entries.values())
    return root


def image_of(repo: Repository, root: Inode, name: str) -> str:
    parts: list[bytes] = []
    write_image(root, parts.append)
    return repo.add_image(b"".join(parts), name)


def test_round_trip(repo: Repository, tmp_path: object) -> None:
    image = image_of(repo, sample(repo), "image")
    tree = Worktree.checkout(repo, "image", f"{tmp_path}/tree")
    assert tree.is_bare_user
    made = tree.commit(repo, "again")
    assert made.image_id == image
    assert repo.resolve("again").image_id == image
    assert (made.files_without_record, made.files_chmodded) == (0, 0)
    assert list(check_records(tree.path)) == []


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
    tree = Worktree.checkout(repo, "image", f"{tmp_path}/tree", workers=workers)
    assert tree.commit(repo, workers=workers).image_id == image


def test_what_is_on_disk(repo: Repository, tmp_path: object) -> None:
    root = sample(repo)
    image_of(repo, root, "image")
    tree = os.fsencode(Worktree.checkout(repo, "image", f"{tmp_path}/tree").path)
    for path, inode in walk(root):
        info = os.lstat(tree + path)
        record = metaedit.read_record(tree + path)
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
    st.binary(max_size=8).map(lambda name: b"user." + name.replace(b"\0", b"0") + b"x"),
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
            made = Worktree.checkout(repo, "image", f"{path}/tree").commit(repo)
            assert made.image_id == image
    finally:
        shutil.rmtree(path)


# -- parts of an image ----------------------------------------------------------------------------


def test_only_some_paths(repo: Repository, tmp_path: object) -> None:
    image_of(repo, sample(repo), "image")
    tree = Worktree.checkout(repo, "image", f"{tmp_path}/tree", [b"/dir/locked", b"plain"])
    assert sorted(os.listdir(tree.path)) == ["dir", "plain"]
    assert os.listdir(f"{tree.path}/dir") == ["locked"]
    assert os.listdir(f"{tree.path}/dir/locked") == ["file"]
    found = Scan(tree.path).run(None, NoProgress())
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


# -- edits ----------------------------------------------------------------------------------------


@pytest.fixture
def tree(repo: Repository, tmp_path: object) -> Worktree:
    image_of(repo, sample(repo), "image")
    return Worktree.checkout(repo, "image", f"{tmp_path}/tree")


def committed(repo: Repository, tree: Worktree, base: str | None = None) -> dict[bytes, Inode]:
    tree.commit(repo, "edited", base=base)
    return dict(walk(load_image(repo, "edited")))


def test_edited_in_place(repo: Repository, tree: Worktree) -> None:
    with open(f"{tree.path}/suid", "wb") as file:
        file.write(b"new content" * 10)
    os.utime(f"{tree.path}/suid", ns=(5, 5_000_000_001))
    found = committed(repo, tree)[b"/suid"]
    assert found.digest == fsverity.digest(b"new content" * 10)
    assert found.mode == stat.S_IFREG | 0o4755
    assert (found.mtime_sec, found.mtime_nsec) == (5, 1)
    # What it was checked out from is as it was.
    assert repo.objects.read(fsverity.digest(DATA[:100])) == DATA[:100]


def test_replaced_file(repo: Repository, tree: Worktree) -> None:
    """As an editor or `sed -i` does it: the record is gone."""
    path = f"{tree.path}/small"
    with open(f"{path}.new", "wb") as file:
        file.write(b"edited")
    os.chmod(f"{path}.new", 0o640)
    os.rename(f"{path}.new", path)
    alone = committed(repo, tree)[b"/small"]
    assert (alone.mode, alone.uid, alone.gid) == (stat.S_IFREG | 0o640, 0, 0)
    based = committed(repo, tree, "image")[b"/small"]
    assert (based.mode, based.uid, based.gid) == (stat.S_IFREG | 0o400, 5, 6)
    assert based.content == b"edited"
    assert based.mtime_sec == os.stat(path).st_mtime_ns // 10**9


def test_base_of_another_type_says_nothing(repo: Repository, tree: Worktree) -> None:
    os.unlink(f"{tree.path}/owned-link")
    with open(f"{tree.path}/owned-link", "wb"):
        os.chmod(f"{tree.path}/owned-link", 0o600)
    found = committed(repo, tree, "image")[b"/owned-link"]
    assert (found.mode, found.uid) == (stat.S_IFREG | 0o600, 0)


def test_new_files_of_any_kind(repo: Repository, tree: Worktree) -> None:
    os.mkdir(f"{tree.path}/new", 0o750)
    os.chmod(f"{tree.path}/new", 0o750)
    os.mkfifo(f"{tree.path}/new/fifo")
    os.chmod(f"{tree.path}/new/fifo", 0o620)
    os.symlink("anywhere", f"{tree.path}/new/link")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(f"{tree.path}/new", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    found = committed(repo, tree)
    assert found[b"/new"].mode == stat.S_IFDIR | 0o750
    assert found[b"/new/fifo"].mode == stat.S_IFIFO | 0o620
    assert found[b"/new/link"].payload == b"anywhere"
    assert stat.S_ISSOCK(found[b"/new/socket"].mode)


def test_removed_and_moved(repo: Repository, tree: Worktree) -> None:
    os.unlink(f"{tree.path}/null")
    os.rename(f"{tree.path}/suid", f"{tree.path}/dir/moved")
    found = committed(repo, tree)
    assert b"/null" not in found
    assert found[b"/dir/hard-device"].nlink == 1
    assert found[b"/dir/moved"].mode == stat.S_IFREG | 0o4755
    assert found[b"/dir"].mtime_sec > 42  # the directory was changed


def test_chmod_is_told(repo: Repository, tree: Worktree) -> None:
    os.chmod(f"{tree.path}/suid", 0o700)
    made = tree.commit(repo, "edited")
    assert made.files_chmodded == 1
    assert dict(walk(load_image(repo, "edited")))[b"/suid"].mode == stat.S_IFREG | 0o4755
    ((path, what),) = check_records(tree.path)
    assert path.endswith(b"/suid")
    assert "0700" in what


def test_hard_links_are_kept_and_broken(repo: Repository, tree: Worktree) -> None:
    os.link(f"{tree.path}/small", f"{tree.path}/dir/small")
    os.unlink(f"{tree.path}/dir/hard")
    shutil.copy(f"{tree.path}/plain", f"{tree.path}/dir/hard")
    found = committed(repo, tree)
    assert found[b"/small"] is found[b"/dir/small"]
    assert found[b"/plain"] is not found[b"/dir/hard"]
    assert found[b"/plain"].nlink == 1


# -- records by hand ------------------------------------------------------------------------------


def test_set_record(repo: Repository, tree: Worktree) -> None:
    path = f"{tree.path}/tool"
    shutil.copy("/bin/true", path)
    os.chmod(path, 0o700)
    capability = {b"security.capability": bytes(range(20))}
    new = change_record(path, Changes(mode=0o4711, uid=3, xattrs={**capability}))
    assert new == read_record(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o711
    found = committed(repo, tree)[b"/tool"]
    assert (found.mode, found.uid, found.xattrs) == (stat.S_IFREG | 0o4711, 3, capability)

    change_record(path, Changes(gid=4, xattrs={b"security.capability": None}, mtime=(5, 6)))
    found = committed(repo, tree)[b"/tool"]
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o4711, 3, 4)
    assert found.xattrs is None
    assert (found.mtime_sec, found.mtime_nsec) == (5, 6)


def test_set_makes_devices_and_links(repo: Repository, tree: Worktree) -> None:
    for name, content in (("dev", b""), ("ln", b"target")):
        with open(f"{tree.path}/{name}", "wb") as file:
            file.write(content)
    change_record(f"{tree.path}/dev", Changes(kind=stat.S_IFBLK, rdev=os.makedev(8, 1)))
    change_record(f"{tree.path}/ln", Changes(kind=stat.S_IFLNK, mode=0o777, uid=9))
    found = committed(repo, tree)
    assert (stat.S_ISBLK(found[b"/dev"].mode), found[b"/dev"].rdev) == (True, 0x801)
    assert (found[b"/ln"].payload, found[b"/ln"].uid) == (b"target", 9)


def test_set_keeps_an_edit(repo: Repository, tree: Worktree) -> None:
    path = f"{tree.path}/small"
    os.utime(path, ns=(0, 77_000_000_000))
    change_record(path, Changes(uid=1))
    assert committed(repo, tree)[b"/small"].mtime_sec == 77


def test_set_replaces_a_damaged_record(tree: Worktree) -> None:
    path = f"{tree.path}/small"
    os.setxattr(path, meta.NAME, b"nonsense")
    with pytest.raises(InputError, match="no record"):
        read_record(path)
    change_record(path, Changes(uid=1))
    found = read_record(path)
    assert found is not None
    assert (found.uid, found.mode) == (1, stat.S_IFREG | 0o600)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("small", Changes(rdev=5), "only devices"),
        ("small", Changes(kind=stat.S_IFCHR), "must be empty"),
        ("small", Changes(kind=stat.S_IFDIR), "says that this is a directory"),
        ("dir", Changes(kind=stat.S_IFREG), "says that this is a regular file"),
        ("link", Changes(uid=1), "symbolic link has no record"),
        ("small", Changes(xattrs={b"user.x": None}), "no attribute user.x"),
        ("small", Changes(xattrs={b"user.cfs.meta": b""}), "user.cfs.meta"),
        ("small", Changes(xattrs={b"": b""}), "usable name"),
        ("small", Changes(uid=2**32), "out of range|damaged"),
    ],
)
def test_set_refuses(name: str, changes: Changes, message: str, tree: Worktree) -> None:
    path = f"{tree.path}/{name}"
    before = os.lstat(path)
    record = None if name == "link" else os.getxattr(path, meta.NAME)
    with pytest.raises(UsageError, match=message):
        change_record(path, changes)
    assert os.lstat(path) == before
    assert record is None or os.getxattr(path, meta.NAME) == record


def test_set_refuses_other_files(tmp_path: object) -> None:
    os.mkfifo(f"{tmp_path}/fifo")
    with pytest.raises(UsageError, match="neither"):
        change_record(f"{tmp_path}/fifo", Changes(uid=1))
    with pytest.raises(FileNotFoundError):
        change_record(f"{tmp_path}/nothing", Changes(uid=1))


# -- what is refused ------------------------------------------------------------------------------

BAD_RECORDS = {
    "none": ("plain", b"nonsense", "no record"),
    "of the future": ("plain", b"2 100644 0 0 0 0.0", "version 2"),
    "not canonical": ("plain", b"1 100644 0 00 0 0.0", "canonical"),
    "directory on a file": ("plain", b"1 40755 0 0 0 0.0", "says that this is a directory"),
    "file on a directory": ("dir", b"1 100644 0 0 0 0.0", "but it is a directory"),
    "device with content": ("plain", b"1 20644 0 0 259 0.0", "not empty"),
    "symlink without target": ("empty", b"1 120777 0 0 0 0.0", "target|no link"),
    "root": (".", b"1 100644 0 0 0 0.0", "but it is a directory"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records(case: str, repo: Repository, tree: Worktree) -> None:
    name, record, message = BAD_RECORDS[case]
    os.setxattr(f"{tree.path}/{name}", meta.NAME, record)
    with pytest.raises(InputError, match=message) as caught:
        tree.commit(repo, "edited")
    assert tree.path in str(caught.value)
    assert "edited" not in repo.image_refs()
    assert list(check_records(tree.path)) != []


def test_a_target_that_is_none(repo: Repository, tree: Worktree) -> None:
    for content, message in ((b"x" * 4096, "4096 bytes"), (b"a\0b", "NUL")):
        with open(f"{tree.path}/owned-link", "wb") as file:
            file.write(content)
        with pytest.raises(InputError, match=message):
            tree.commit(repo)


def test_where_there_is_something_already(repo: Repository, tree: Worktree) -> None:
    with pytest.raises(InputError, match="not empty"):
        Worktree.checkout(repo, "image", tree.path)
    with pytest.raises(FileNotFoundError):
        Worktree.checkout(repo, "image", f"{tree.path}/no/such/parent")
    with pytest.raises(NotADirectoryError):
        Worktree.checkout(repo, "image", f"{tree.path}/plain")


def test_damaged_objects_are_noticed(repo: Repository, tmp_path: object) -> None:
    image_of(repo, sample(repo), "image")
    path = f"{repo.path}/objects/{object_path(fsverity.digest(DATA))}"
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"X")
    with pytest.raises(RepositoryError, match="does not have this digest"):
        Worktree.checkout(repo, "image", f"{tmp_path}/tree")
    Worktree.checkout(repo, "image", f"{tmp_path}/unchecked", verify=False)
    os.truncate(path, 5)
    with pytest.raises(RepositoryError, match="does not have this digest"):
        Worktree.checkout(repo, "image", f"{tmp_path}/tree2", verify=False)
    os.unlink(path)
    with pytest.raises(NotFoundError, match="missing"):
        Worktree.checkout(repo, "image", f"{tmp_path}/tree3")


@pytest.mark.parametrize("size", [9_000, 18_000])
def test_a_record_that_does_not_fit(size: int, repo: Repository, tmp_path: object) -> None:
    """The file system's limit (where it is below the kernel's), and the kernel's."""
    with open(f"{tmp_path}/probe", "wb") as probe:
        try:
            os.setxattr(probe.fileno(), meta.NAME, bytes(40_000))
            limit = 65536
        except OSError:
            limit = 40_000
    if size == 9_000 and limit == 65536:
        pytest.skip("this file system takes all that the kernel does")
    root = directory()
    assert root.entries is not None
    root.entries[b"f"] = regular(repo, b"x")
    root.entries[b"f"].xattrs = {b"user.big": bytes(size)}
    image_of(repo, root, "image")
    with pytest.raises(LimitError, match=r"tree/f: user\.cfs\.meta") as caught:
        Worktree.checkout(repo, "image", f"{tmp_path}/tree")
    assert "\n" not in str(caught.value)


def test_kernels_without_openat2(
    repo: Repository, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **keywords: object) -> int:
        raise OSError(38, "Function not implemented")

    image_of(repo, sample(repo), "image")
    monkeypatch.setattr(linux, "openat2", missing)
    with pytest.raises(SystemFailure, match="openat2"):
        Worktree.checkout(repo, "image", f"{tmp_path}/tree")


# -- attacks from beside --------------------------------------------------------------------------


def test_exchanged_directories_lead_nowhere(
    repo: Repository, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory is replaced by a symlink to elsewhere, after it was made and before its files
    are: they are nowhere then."""
    image_of(repo, sample(repo), "image")
    outside = f"{tmp_path}/outside"
    os.mkdir(outside)
    path = f"{tmp_path}/tree"
    original = TreeWriter._write_files

    def exchange(self: TreeWriter, batch: list[treewriter._Files]) -> None:
        os.rename(f"{path}/dir", f"{path}/was-dir")
        os.symlink(outside, f"{path}/dir")
        original(self, batch)

    monkeypatch.setattr(TreeWriter, "_write_files", exchange)
    with pytest.raises(InputError, match="exchanged"):
        Worktree.checkout(repo, "image", path)
    assert os.listdir(outside) == []


def test_files_that_appear_are_not_replaced(
    repo: Repository, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(repo, sample(repo), "image")
    outside = f"{tmp_path}/outside"
    with open(outside, "w") as file:
        file.write("mine")
    path = f"{tmp_path}/tree"
    original = TreeWriter._write_files

    def plant(self: TreeWriter, batch: list[treewriter._Files]) -> None:
        os.symlink(outside, f"{path}/plain")
        original(self, batch)

    monkeypatch.setattr(TreeWriter, "_write_files", plant)
    with pytest.raises(FileExistsError):
        Worktree.checkout(repo, "image", path)
    with open(outside) as file:
        assert file.read() == "mine"


def test_open_below(tmp_path: object) -> None:
    os.makedirs(f"{tmp_path}/root/a/b")
    os.symlink("a", f"{tmp_path}/root/inside")
    os.symlink("/", f"{tmp_path}/root/outside")
    os.symlink("/proc/self/root", f"{tmp_path}/root/magic")
    root = os.open(f"{tmp_path}/root", os.O_RDONLY)
    try:
        os.close(open_below(root, b"a/b", os.O_RDONLY))
        for path in (b"inside", b"inside/b", b"outside", b"outside/etc", b"magic/etc", b"../x"):
            with pytest.raises(InputError, match="exchanged"):
                open_below(root, path, os.O_RDONLY)
    finally:
        os.close(root)


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
    found = Scan(f"{tmp_path}/tree").run(None, NoProgress())
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
    made = Worktree.checkout(repo, "image", f"{tmp_path}/tree").commit(repo)
    assert made.image_id == pulled.image_id


def test_a_race_for_directories_leads_nowhere(repo: Repository, tmp_path: object) -> None:
    """Another process exchanges a directory and a symlink to elsewhere as fast as it can."""
    root = directory()
    assert root.entries is not None
    for number in range(40):
        below = root.entries[b"%02d" % number] = directory()
        assert below.entries is not None
        below.entries.update({b"%d" % file: regular(repo, b"x" * file) for file in range(20)})
    root.nlink = 42
    image_of(repo, root, "image")
    outside, path = f"{tmp_path}/outside", f"{tmp_path}/tree"
    os.mkdir(outside)
    os.symlink(outside, f"{tmp_path}/link")
    attacker = os.fork()
    if attacker == 0:
        try:
            number = 0
            while True:
                number = (number + 1) % 40
                with contextlib.suppress(OSError):
                    linux.renameat2(
                        -100, f"{tmp_path}/link", -100, f"{path}/{number:02d}", 2
                    )  # RENAME_EXCHANGE
        finally:
            os._exit(0)
    try:
        for _ in range(5):
            with contextlib.suppress(InputError, OSError):
                Worktree.checkout(repo, "image", path)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.kill(attacker, 9)
        os.waitpid(attacker, 0)
    assert os.listdir(outside) == []


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
            tree = Worktree.checkout(repo, "image", f"{mount}/tree")
            assert tree.commit(repo).image_id == image
            with open(f"{tree.path}/f", "r+b") as file:
                file.write(b"edited in place")
            made = tree.commit(repo, "edited")
            assert made.image_id != image
            assert used() - before < size // 4
            # The object that it was checked out from is as it was.
            assert fsverity.digest(repo.objects.read(digest)) == digest
    finally:
        subprocess.run(["umount", mount], check=True)
