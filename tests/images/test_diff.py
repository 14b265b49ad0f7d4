"""Comparing trees: every kind of change, between images, directories and one of each."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cfsrepo.errors import NotFoundError
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.images import make
from cfsrepo.images.diff import Change, ImageTree, compare
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.directorytree import DirectoryTree
from tests.store.repository_helpers import make_tree

A, B = b"a" * 5000, b"b" * 5000


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init(str(tmp_path / "repo"))


def tree_of(root: Inode) -> ImageTree:
    return ImageTree(ErofsImage(make.make_image(root, maker=make.Maker.BUILTIN)))


def at(root: Inode, path: str) -> Inode:
    for name in path.encode().split(b"/"):
        assert root.entries is not None
        root = root.entries[name]
    return root


def differences(
    first: object, second: object, path: bytes = b"/", **kwargs: object
) -> list[tuple[str, bytes, tuple[str, ...]]]:
    found = compare(first, second, path, **kwargs)  # type: ignore[arg-type]
    return [(str(d.change), d.path, d.what) for d in found]


FILES = {"a": A, "dir/b": B, "dir/small": b"inline", "empty": b""}

Edit = Callable[[Inode, Repository], None]


def edit_content(root: Inode, repo: Repository) -> None:
    at(root, "a").digest = repo.objects.put(B)
    at(root, "a").payload = at(root, "dir/b").payload


def edit_inline(root: Inode, repo: Repository) -> None:
    at(root, "dir/small").content = b"INLINE"


def edit_size(root: Inode, repo: Repository) -> None:
    at(root, "dir/small").content = b"longer than before"
    at(root, "dir/small").size = 18


def edit_mode(root: Inode, repo: Repository) -> None:
    at(root, "a").mode |= 0o4000


def edit_owner(root: Inode, repo: Repository) -> None:
    at(root, "dir").gid = 7


def edit_mtime(root: Inode, repo: Repository) -> None:
    at(root, "a").mtime_nsec = 1
    at(root, "dir/b").mtime_sec = -5


def edit_xattr(root: Inode, repo: Repository) -> None:
    at(root, "a").xattrs = {b"user.x": b"1"}


def edit_type(root: Inode, repo: Repository) -> None:
    assert root.entries is not None
    root.entries[b"empty"] = Inode(stat.S_IFLNK | 0o777, payload=b"a", size=1)


def edit_rdev(root: Inode, repo: Repository) -> None:
    at(root, "device").rdev = os.makedev(1, 5)


def edit_link(root: Inode, repo: Repository) -> None:
    at(root, "link").payload = b"elsewher"


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (edit_content, {b"/a": ("content",)}),
        (edit_inline, {b"/dir/small": ("content",)}),
        (edit_size, {b"/dir/small": ("content",)}),
        (edit_mode, {b"/a": ("mode",)}),
        (edit_owner, {b"/dir": ("owner",)}),
        (edit_mtime, {b"/a": ("mtime",), b"/dir/b": ("mtime",)}),
        (edit_xattr, {b"/a": ("xattr",)}),
        (edit_type, {b"/empty": ("type", "mode")}),
        (edit_rdev, {b"/device": ("rdev",)}),
        (edit_link, {b"/link": ("content",)}),
    ],
)
def test_changes(repo: Repository, edit: Edit, wanted: dict[bytes, tuple[str, ...]]) -> None:
    trees = []
    for change in (False, True):
        root = make_tree(FILES, repo)
        assert root.entries is not None
        root.entries[b"device"] = Inode(stat.S_IFCHR | 0o600, rdev=os.makedev(1, 3))
        root.entries[b"link"] = Inode(stat.S_IFLNK | 0o777, payload=b"nowhere!", size=8)
        if change:
            edit(root, repo)
        trees.append(tree_of(root))
    assert differences(trees[0], trees[0]) == []
    found = differences(trees[0], trees[1])
    assert {path: what for _, path, what in found} == wanted
    assert {change for change, _, _ in found} == {"changed"}
    assert [path for _, path, _ in differences(trees[1], trees[0])] == list(wanted)


def test_added_and_removed(repo: Repository) -> None:
    one = tree_of(make_tree({"b/x": A, "b/y": A, "c": A, "z": A}, repo))
    two = tree_of(make_tree({"a/deep/er": A, "c/now a directory": A, "z": A}, repo))
    assert differences(one, two) == [
        ("added", b"/a", ()),
        ("added", b"/a/deep", ()),
        ("added", b"/a/deep/er", ()),
        ("removed", b"/b", ()),
        ("removed", b"/b/x", ()),
        ("removed", b"/b/y", ()),
        ("changed", b"/c", ("type", "mode")),
        ("added", b"/c/now a directory", ()),
    ]
    backwards = differences(two, one)
    assert [(change, path) for change, path, _ in backwards][-2:] == [
        ("changed", b"/c"),
        ("removed", b"/c/now a directory"),
    ]


def test_from_a_path_on(repo: Repository) -> None:
    one = tree_of(make_tree({"dir/a": A, "other": A}, repo))
    two = tree_of(make_tree({"dir/a": B, "other": B}, repo))
    for path in (b"/dir", b"dir", b"/dir/", b"//dir/."):
        assert differences(one, two, path) == [("changed", b"/dir/a", ("content",))]
    assert differences(one, two, b"/dir/a") == [("changed", b"/dir/a", ("content",))]
    with pytest.raises(NotFoundError, match="no such path"):
        differences(one, two, b"/absent")


def test_no_data_is_read_for_images(repo: Repository) -> None:
    """Objects need not even exist."""
    one = tree_of(make_tree({"a": A, "b": B}, repo))
    two = tree_of(make_tree({"a": B, "b": B}, repo))
    for prefix in repo.objects.prefixes():
        for name in os.listdir(f"{repo.objects.path}/{prefix}"):
            os.unlink(f"{repo.objects.path}/{prefix}/{name}")
    assert differences(one, two) == [("changed", b"/a", ("content",))]


def test_the_whiteouts_of_the_format_are_not_there(repo: Repository) -> None:
    empty = tree_of(directory())
    assert [name for name, _ in empty.children(empty.find(b"/"))] == []


def make_directory_tree(path: Path, files: dict[str, bytes]) -> DirectoryTree:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return DirectoryTree(str(path), bare_user=False)


def test_directories(tmp_path: Path) -> None:
    one = make_directory_tree(tmp_path / "one", FILES)
    two = make_directory_tree(tmp_path / "two", {**FILES, "a": B, "new": b"x"})
    os.symlink("nowhere", tmp_path / "one" / "link")
    for path in [*(tmp_path / "one").rglob("*"), *(tmp_path / "two").rglob("*")]:
        os.utime(path, (1, 1), follow_symlinks=False)
    for path in (tmp_path / "one", tmp_path / "two"):
        os.utime(path, (1, 1))
    assert differences(one, two) == [
        ("changed", b"/a", ("content",)),
        ("removed", b"/link", ()),
        ("added", b"/new", ()),
    ]
    with pytest.raises(NotFoundError):
        one.find(b"absent")
    with pytest.raises(NotFoundError, match="leads out"):
        one.find(b"../two")


@pytest.mark.parametrize("algorithm", Algorithm)
def test_an_image_against_a_directory(tmp_path: Path, algorithm: Algorithm) -> None:
    with Repository.init(str(tmp_path / "r"), algorithm=algorithm) as repo:
        root = make_tree(FILES, repo)
        first = tree_of(root)
        second = make_directory_tree(tmp_path / "dir", FILES)
        for path in [tmp_path / "dir", *(tmp_path / "dir").rglob("*")]:
            os.utime(path, ns=(0, 999_999_999))
            if os.geteuid():
                pytest.skip("needs root to make files of root")
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
        assert differences(first, second, algorithm=algorithm) == []
        (tmp_path / "dir" / "a").write_bytes(B)
        os.utime(tmp_path / "dir" / "a", (0, 0))
        found = differences(first, second, algorithm=algorithm)
        assert found == [("changed", b"/a", ("content",))]
        assert next(iter(compare(first, second, algorithm=algorithm))).change is Change.CHANGED
