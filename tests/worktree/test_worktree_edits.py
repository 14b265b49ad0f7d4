"""Bare-user trees that were edited: edits of files and of records count."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator

import pytest

from cfsrepo.errors import InputError, UsageError
from cfsrepo.formats import fsverity, metarecord
from cfsrepo.formats.tree import walk
from cfsrepo.images.imagetree import load_image
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.recordedit import Changes, change_record, check_records, read_record
from tests.worktree.worktree_helpers import DATA, checked_out, committed, image_of, sample


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


@pytest.fixture
def tree(repo: Repository, tmp_path: object) -> str:
    image_of(repo, sample(repo), "image")
    return checked_out(repo, "image", f"{tmp_path}/tree")


def test_edited_in_place(repo: Repository, tree: str) -> None:
    with open(f"{tree}/suid", "wb") as file:
        file.write(b"new content" * 10)
    os.utime(f"{tree}/suid", ns=(5, 5_000_000_001))
    found = committed(repo, tree)[b"/suid"]
    assert found.digest == fsverity.digest(b"new content" * 10)
    assert found.mode == stat.S_IFREG | 0o4755
    assert (found.mtime_sec, found.mtime_nsec) == (5, 1)
    # What it was checked out from is as it was.
    assert repo.objects.read(fsverity.digest(DATA[:100])) == DATA[:100]


def test_replaced_file(repo: Repository, tree: str) -> None:
    """As an editor or `sed -i` does it: the record is gone."""
    path = f"{tree}/small"
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


def test_base_of_another_type_says_nothing(repo: Repository, tree: str) -> None:
    os.unlink(f"{tree}/owned-link")
    with open(f"{tree}/owned-link", "wb"):
        os.chmod(f"{tree}/owned-link", 0o600)
    found = committed(repo, tree, "image")[b"/owned-link"]
    assert (found.mode, found.uid) == (stat.S_IFREG | 0o600, 0)


def test_new_files_of_any_kind(repo: Repository, tree: str) -> None:
    os.mkdir(f"{tree}/new", 0o750)
    os.chmod(f"{tree}/new", 0o750)
    os.mkfifo(f"{tree}/new/fifo")
    os.chmod(f"{tree}/new/fifo", 0o620)
    os.symlink("anywhere", f"{tree}/new/link")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(f"{tree}/new", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    found = committed(repo, tree)
    assert found[b"/new"].mode == stat.S_IFDIR | 0o750
    assert found[b"/new/fifo"].mode == stat.S_IFIFO | 0o620
    assert found[b"/new/link"].payload == b"anywhere"
    assert stat.S_ISSOCK(found[b"/new/socket"].mode)


def test_removed_and_moved(repo: Repository, tree: str) -> None:
    os.unlink(f"{tree}/null")
    os.rename(f"{tree}/suid", f"{tree}/dir/moved")
    found = committed(repo, tree)
    assert b"/null" not in found
    assert found[b"/dir/hard-device"].nlink == 1
    assert found[b"/dir/moved"].mode == stat.S_IFREG | 0o4755
    assert found[b"/dir"].mtime_sec > 42  # the directory was changed


def test_chmod_is_told(repo: Repository, tree: str) -> None:
    os.chmod(f"{tree}/suid", 0o700)
    made = commit(repo, tree, "edited")
    assert made.files_chmodded == 1
    assert dict(walk(load_image(repo, "edited")))[b"/suid"].mode == stat.S_IFREG | 0o4755
    ((path, what),) = check_records(tree)
    assert path.endswith(b"/suid")
    assert "0700" in what


def test_hard_links_are_kept_and_broken(repo: Repository, tree: str) -> None:
    os.link(f"{tree}/small", f"{tree}/dir/small")
    os.unlink(f"{tree}/dir/hard")
    shutil.copy(f"{tree}/plain", f"{tree}/dir/hard")
    found = committed(repo, tree)
    assert found[b"/small"] is found[b"/dir/small"]
    assert found[b"/plain"] is not found[b"/dir/hard"]
    assert found[b"/plain"].nlink == 1


# -- records by hand ------------------------------------------------------------------------------


def test_set_record(repo: Repository, tree: str) -> None:
    path = f"{tree}/tool"
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


def test_set_makes_devices_and_links(repo: Repository, tree: str) -> None:
    for name, content in (("dev", b""), ("ln", b"target")):
        with open(f"{tree}/{name}", "wb") as file:
            file.write(content)
    change_record(f"{tree}/dev", Changes(kind=stat.S_IFBLK, rdev=os.makedev(8, 1)))
    change_record(f"{tree}/ln", Changes(kind=stat.S_IFLNK, mode=0o777, uid=9))
    found = committed(repo, tree)
    assert (stat.S_ISBLK(found[b"/dev"].mode), found[b"/dev"].rdev) == (True, 0x801)
    assert (found[b"/ln"].payload, found[b"/ln"].uid) == (b"target", 9)


def test_set_keeps_an_edit(repo: Repository, tree: str) -> None:
    path = f"{tree}/small"
    os.utime(path, ns=(0, 77_000_000_000))
    change_record(path, Changes(uid=1))
    assert committed(repo, tree)[b"/small"].mtime_sec == 77


def test_set_replaces_a_damaged_record(tree: str) -> None:
    path = f"{tree}/small"
    os.setxattr(path, metarecord.NAME, b"nonsense")
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
def test_set_refuses(name: str, changes: Changes, message: str, tree: str) -> None:
    path = f"{tree}/{name}"
    before = os.lstat(path)
    record = None if name == "link" else os.getxattr(path, metarecord.NAME)
    with pytest.raises(UsageError, match=message):
        change_record(path, changes)
    assert os.lstat(path) == before
    assert record is None or os.getxattr(path, metarecord.NAME) == record


def test_set_refuses_other_files(tmp_path: object) -> None:
    os.mkfifo(f"{tmp_path}/fifo")
    with pytest.raises(UsageError, match="neither"):
        change_record(f"{tmp_path}/fifo", Changes(uid=1))
    with pytest.raises(FileNotFoundError):
        change_record(f"{tmp_path}/nothing", Changes(uid=1))
