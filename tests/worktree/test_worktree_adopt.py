"""`cfs commit --adopt`: files of a tree become objects, and the image is the same."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from cfsrepo.formats.tree import directory
from cfsrepo.images import names
from cfsrepo.oci.imagecommit import commit_oci
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux
from cfsrepo.upkeep import fsck, gc
from cfsrepo.worktree import filecontents
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.recordedit import Changes, change_record, check_records, read_record
from cfstools import cli
from tests.conftest import User
from tests.worktree.worktree_helpers import DATA, checked_out, image_of, regular, sample


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Repository]:
    """Where the tree comes from."""
    with Repository.init(str(tmp_path / "source")) as repository:
        yield repository


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    """Where it goes to, which has none of its objects."""
    with Repository.init(str(tmp_path / "repo")) as repository:
        yield repository


@pytest.fixture
def tree(source: Repository, tmp_path: Path) -> str:
    image_of(source, sample(source), "image")
    return checked_out(source, "image", str(tmp_path / "tree"))


def objects_of(repo: Repository) -> dict[int, Path]:
    """The objects by inode."""
    return {path.stat().st_ino: path for path in Path(repo.objects.path).glob("??/*")}


def is_closed(path: str) -> bool:
    """Can nobody write the file, by its rights or by fs-verity?"""
    with linux.opened(path, os.O_RDONLY) as fd:
        protected = linux.measure_verity(fd) is not None
    return protected or not os.stat(path).st_mode & 0o222


def shared(repo: Repository, tree: str) -> set[str]:
    """Paths in the tree of files that are objects."""
    objects = objects_of(repo)
    return {
        os.path.relpath(path, tree)
        for path in Path(tree).rglob("*")
        if not path.is_symlink() and path.stat().st_ino in objects
    }


def test_the_image_is_the_same(source: Repository, repo: Repository, tree: str) -> None:
    made = commit(repo, tree, "adopted", adopt=True)
    assert made.image_id == names.resolve(source, "image").image_id
    # Neither small files nor placeholders; what has two names in the tree, once.
    assert shared(repo, tree) == {"plain", "dir/hard", "suid"}
    assert made.files_adopted == 2
    assert os.stat(f"{tree}/plain").st_nlink == 3
    assert is_closed(f"{tree}/plain")
    assert read_record(f"{tree}/suid") is not None
    assert fsck.check(repo).clean


def test_the_tree_can_be_committed_again(repo: Repository, tree: str) -> None:
    first = commit(repo, tree, adopt=True)
    for adopt in (True, False):
        again = commit(repo, tree, adopt=adopt)
        assert again.image_id == first.image_id
        assert (again.files_adopted, again.files_chmodded) == (0, 0)
    assert list(check_records(tree)) == []
    # Rights that somebody changed are still told.
    os.chmod(f"{tree}/small", 0o444)
    assert commit(repo, tree).files_chmodded == 1
    assert [path for path, _ in check_records(tree)] == [os.fsencode(f"{tree}/small")]


def test_hard_links_with_odd_rights_are_told(repo: Repository, tree: str) -> None:
    """They have several names, but none that is not in the tree."""
    os.link(f"{tree}/small", f"{tree}/dir/small")
    os.chmod(f"{tree}/small", 0o444)
    assert commit(repo, tree).files_chmodded == 1
    assert len(list(check_records(tree))) == 1  # a file, whatever its names


def test_by_several_processes(
    source: Repository, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filecontents, "_BATCH_FILES", 3)
    root = directory()
    assert root.entries is not None
    for number in range(20):
        root.entries[b"%d" % number] = regular(source, b"%d " % (number // 2) * 100)
    image = image_of(source, root, "image")
    tree = checked_out(source, "image", str(tmp_path / "tree"))
    made = commit(repo, tree, adopt=True, workers=2)
    assert made.image_id == image
    # Of two with equal content one becomes the object, or both in turn.
    assert 10 <= made.files_adopted <= 20
    assert len(objects_of(repo)) == 11
    assert len(shared(repo, tree)) == 10


def test_files_without_a_record_are_copied(repo: Repository, tree: str) -> None:
    """Their rights on disk are their metadata, and compilers write into them."""
    path = Path(tree, "built")
    path.write_bytes(b"x" * 5000)
    path.chmod(0o755)
    commit(repo, tree, adopt=True)
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o755, 1)
    assert repo.objects.has(fsverity.digest(b"x" * 5000))


def test_files_open_for_writing_are_copied(source: Repository, repo: Repository, tree: str) -> None:
    with open(f"{tree}/plain", "r+b") as file:
        made = commit(repo, tree, "adopted", adopt=True)
        file.write(b"edited in place")
    assert made.image_id == names.resolve(source, "image").image_id
    assert shared(repo, tree) == {"suid"}
    assert repo.objects.read(fsverity.digest(DATA)) == DATA


def test_edits_that_replace(repo: Repository, tree: str) -> None:
    first = commit(repo, tree, "first", adopt=True)
    path = f"{tree}/suid"
    with open(f"{path}.new", "wb") as file:
        file.write(b"edited" * 100)
    os.rename(f"{path}.new", path)
    assert commit(repo, tree, "second", adopt=True).image_id != first.image_id
    assert repo.objects.read(fsverity.digest(DATA[:100])) == DATA[:100]
    assert fsck.check(repo).clean


def test_records_change_and_the_object_stays_closed(repo: Repository, tree: str) -> None:
    commit(repo, tree, adopt=True)
    path = f"{tree}/suid"
    change_record(path, Changes(uid=77, mode=0o755))
    record = read_record(path)
    assert record is not None
    assert (record.uid, record.mode) == (77, stat.S_IFREG | 0o755)
    assert is_closed(path)
    assert fsck.check(repo).clean


def test_tree_and_repository_go_their_ways(repo: Repository, tree: str) -> None:
    commit(repo, tree, "adopted", adopt=True)
    repo.untag("adopted")
    assert gc.collect(repo).objects > 0
    assert objects_of(repo) == {}
    assert Path(tree, "plain").read_bytes() == DATA
    image = commit(repo, tree, "again", adopt=True).image_id
    shutil.rmtree(tree)
    assert gc.collect(repo).objects == 0
    assert fsck.check(repo).clean
    assert commit(repo, checked_out(repo, "again", tree)).image_id == image


def test_a_checkout_shares_no_files(repo: Repository, tree: str, tmp_path: Path) -> None:
    commit(repo, tree, "adopted", adopt=True)
    other = checked_out(repo, "adopted", str(tmp_path / "other"))
    assert shared(repo, other) == set()
    assert os.stat(f"{other}/plain").st_mode & stat.S_IWUSR


def test_as_an_oci_image(repo: Repository, tree: str, tmp_path: Path) -> None:
    for name in ("socket", "whiteout"):  # no layer can hold them
        os.unlink(f"{tree}/{name}")
    with Repository.init(str(tmp_path / "third")) as third:
        copied = commit_oci(third, tree, "made")
        expected = names.resolve(third, "made").manifest_digest
    made = commit_oci(repo, tree, "made", adopt=True)
    assert (made.image_id, made.files_adopted) == (copied.image_id, 2)
    assert names.resolve(repo, "made").manifest_digest == expected
    assert shared(repo, tree) == {"plain", "dir/hard", "suid"}
    assert fsck.check(repo).clean


# -- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_must_not_be_done(user: User) -> None:
    tree = os.path.join(user.home, "tree")
    os.mkdir(tree)
    Path(tree, "tool").write_bytes(DATA)
    for path in (tree, f"{tree}/tool"):
        os.chown(path, user.uid, user.gid)
    user.cfs("init")
    user.cfs("meta", "set", "--mode=4755", f"{tree}/tool")
    done = user.cfs("commit", "--adopt", tree, "image")
    (line,) = [line for line in done.stderr.splitlines() if "objects of the repository" in line]
    assert line.startswith(f"{tree}: 1 files are")
    assert "do not edit them in place" in line
    assert os.stat(f"{tree}/tool").st_nlink == 2
    edited = user.run("dd", "of=" + f"{tree}/tool", "if=/dev/zero", "count=1", check=False)
    assert edited.returncode != 0
    user.run("sed", "-i", "s/a/b/", f"{tree}/tool")
    user.cfs("fsck")
    assert "objects of the repository" not in user.cfs("commit", "--adopt", tree).stderr


def test_a_failed_command_says_it_too(
    repo: Repository, tree: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.setxattr(f"{tree}/small", "user.cfs.meta", b"nonsense")
    for arguments, told in ((["--adopt"], True), ([], False)):
        assert cli.main(["--repo", repo.path, "commit", *arguments, tree]) != 0
        assert ("do not edit them in place" in capsys.readouterr().err) == told
