"""What was changed since a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo.errors import InputError, NotFoundError, UsageError
from cfsrepo.formats import fsverity, metarecord
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.tree import directory
from cfsrepo.store.repository import Repository
from cfsrepo.worktree import attributes, checkoutmark
from cfsrepo.worktree.checkout import checkout
from cfsrepo.worktree.recordedit import Changes, change_record
from cfsrepo.worktree.status import Status, status
from tests.worktree.worktree_helpers import DATA, checked_out, image_of, regular, sample


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


@pytest.fixture
def tree(repo: Repository, tmp_path: Path) -> str:
    image_of(repo, sample(repo), "image")
    return checked_out(repo, "image", f"{tmp_path}/tree")


def told(found: Status) -> list[tuple[str, bytes, tuple[str, ...]]]:
    return [(str(each.change), each.path, each.what) for each in found.differences]


def test_untouched_and_nothing_read(
    repo: Repository, tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fsverity.digest_fd

    def read(fd: int, algorithm: Algorithm = Algorithm.SHA256) -> bytes:
        assert not os.readlink(f"/proc/self/fd/{fd}").startswith(tree)
        return original(fd, algorithm)

    monkeypatch.setattr(fsverity, "digest_fd", read)
    found = status(repo, tree)
    assert told(found) == []
    assert (found.files_without_record, found.files_chmodded) == (0, 0)


def test_a_copy_is_read_and_equal(repo: Repository, tree: str) -> None:
    subprocess.run(["cp", "-a", tree, f"{tree}-copy"], check=True)
    if attributes.read(f"{tree}-copy") is None:
        pytest.skip("needs a cp that copies extended attributes")
    assert told(status(repo, f"{tree}-copy")) == []


def test_edits(repo: Repository, tree: str) -> None:
    with open(f"{tree}/plain", "ab") as file:
        file.write(b"more")
    os.unlink(f"{tree}/small")
    Path(tree, "new").write_bytes(b"new")
    os.mkdir(f"{tree}/new-dir")
    change_record(f"{tree}/suid", Changes(uid=77))
    os.chmod(f"{tree}/old", 0o700)
    found = status(repo, tree)
    assert told(found) == [
        ("changed", b"/dir/hard", ("content", "mtime")),
        ("added", b"/new", ()),
        ("added", b"/new-dir", ()),
        ("changed", b"/plain", ("content", "mtime")),
        ("removed", b"/small", ()),
        ("changed", b"/suid", ("owner",)),
    ]
    assert (found.files_without_record, found.files_chmodded) == (2, 1)


def test_an_edit_that_hides(repo: Repository, tree: str) -> None:
    """Of the same size, with the mtime set back: the ctime tells."""
    before = os.stat(f"{tree}/plain").st_mtime_ns
    with open(f"{tree}/plain", "r+b") as file:
        file.write(b"x")
    os.utime(f"{tree}/plain", ns=(before, before))
    assert told(status(repo, tree)) == [
        ("changed", b"/dir/hard", ("content",)),
        ("changed", b"/plain", ("content",)),
    ]


def test_directories_that_changed_places(repo: Repository, tmp_path: Path) -> None:
    """Their files have old ctimes, and records that fit: but they are not where they were."""
    root = directory()
    assert root.entries is not None
    for name, byte in ((b"a", b"a"), (b"b", b"b")):
        above = root.entries[name] = directory()
        assert above.entries is not None
        below = above.entries[b"below"] = directory()
        assert below.entries is not None
        below.entries[b"f"] = regular(repo, byte * 100)
    image_of(repo, root, "image")
    tree = checked_out(repo, "image", f"{tmp_path}/tree")
    assert told(status(repo, tree)) == []
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        os.rename(f"{tree}/{old}", f"{tree}/{new}")
    changes = [("changed", b"/a/below/f", ("content",)), ("changed", b"/b/below/f", ("content",))]
    assert told(status(repo, tree)) == changes
    tree = checked_out(repo, "image", f"{tmp_path}/deeper")
    os.rename(f"{tree}/a/below", f"{tree}/c")
    os.rename(f"{tree}/b/below", f"{tree}/a/below")
    os.rename(f"{tree}/c", f"{tree}/b/below")
    assert told(status(repo, tree)) == changes


def test_a_replaced_file_has_the_metadata_of_the_image(repo: Repository, tree: str) -> None:
    """As editors do it: the record is lost, and `commit --base` finds it in the image again."""
    Path(tree, "edited").write_bytes(DATA[:50] + b"!" + DATA[51:100])
    os.rename(f"{tree}/edited", f"{tree}/suid")
    found = status(repo, tree)
    assert told(found) == [("changed", b"/suid", ("content", "mtime"))]
    assert found.files_without_record == 1


def test_against_another_image(repo: Repository, tree: str) -> None:
    other = sample(repo)
    assert other.entries is not None
    other.entries[b"plain"] = regular(repo, b"y" + DATA[1:], mtime_sec=1_600_000_000)
    del other.entries[b"small"]
    image_of(repo, other, "other")
    assert told(status(repo, tree, "other")) == [
        ("changed", b"/plain", ("content", "mtime")),
        ("added", b"/small", ()),
    ]


def test_of_some_paths(repo: Repository, tree: str, tmp_path: Path) -> None:
    part = checked_out(
        repo, "image", f"{tmp_path}/part", [b"dir/locked", b"plain", b"new\nline \\"]
    )
    assert told(status(repo, part)) == []
    os.unlink(f"{part}/dir/locked/file")
    assert told(status(repo, part)) == [("removed", b"/dir/locked/file", ())]
    assert told(status(repo, part, "image")) == told(status(repo, part))


def test_what_has_no_status(repo: Repository, tree: str, tmp_path: Path) -> None:
    plain = f"{tmp_path}/plain"
    os.mkdir(plain)
    with pytest.raises(InputError, match="no bare-user tree"):
        status(repo, plain)
    with Repository.init(f"{tmp_path}/other") as other:
        with pytest.raises(NotFoundError, match="is not in the repository") as caught:
            status(other, tree)
        assert caught.value.hint is not None
        assert "--base" in caught.value.hint
    fd = os.open(tree, os.O_RDONLY)
    try:
        for mark in (b"1 - 5", b"nonsense"):
            attributes.write(fd, mark, tree, name=checkoutmark.NAME)
            with pytest.raises(UsageError, match="does not say which image"):
                status(repo, tree)
        assert told(status(repo, tree, "image")) == []
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        (b"1 - unfinished", checkoutmark.CheckoutMark(None)),
        (b"1 %b 5" % (b"ab" * 32), checkoutmark.CheckoutMark("ab" * 32, (), 5)),
        (
            b"1 %b 5 a/b \\x20\\xff" % (b"ab" * 64),
            checkoutmark.CheckoutMark("ab" * 64, (b"a/b", b" \xff"), 5),
        ),
    ],
)
def test_marks(line: bytes, mark: checkoutmark.CheckoutMark) -> None:
    assert checkoutmark.encode(mark) == line
    assert checkoutmark.decode(line) == mark


@pytest.mark.parametrize("line", [b"", b"1 - ", b"2 - 5", b"1 zz 5", b"1 - 5 ", b"1 - 5 \\q"])
def test_lines_that_are_no_marks(line: bytes) -> None:
    assert checkoutmark.decode(line) is None


def test_marks_that_do_not_fit(repo: Repository, tree: str, tmp_path: Path) -> None:
    """Hundreds of paths: the tree does not say any more of what it was made."""
    paths = [b"plain/" + b"./" * 100 + b"%d" % number for number in range(100)]
    only = [path[:6].rstrip(b"/") + b"/." * number for number, path in enumerate(paths)]
    checkout(repo, "image", f"{tmp_path}/part", [*only, b"small" + b"/" * 70_000])
    mark = checkoutmark.read(f"{tmp_path}/part")
    assert mark is not None
    assert (mark.image_id, mark.paths) == (None, ())
    assert mark.finished_ns is not None
    assert sorted(os.listdir(f"{tmp_path}/part")) == ["plain", "small"]
    assert metarecord.decode(attributes.read(f"{tmp_path}/part") or b"").mode & 0o777 == 0o751
    shutil.rmtree(f"{tmp_path}/part")
