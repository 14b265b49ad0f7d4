"""Images with a directory in two places, or below itself: every walk ends and says that."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from cfsrepo.errors import CfsError, InputError
from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import Backing, ErofsImage
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.images import neededobjects
from cfsrepo.images.contents import Content
from cfsrepo.images.diff import ImageTree, compare
from cfsrepo.images.imagetree import load_image
from cfsrepo.images.view import ImageView
from cfsrepo.images.xattrscan import XattrScan
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.checkout import checkout
from cfstools.cli import main
from tests.formats.formats_helpers import dirent_of, image_bytes, patched, tree_of

DUMP = b"""/ 0 40755 3 0 0 0 0.0 - - -
/a 0 40755 4 0 0 0 0.0 - - -
/a/b 0 40755 2 0 0 0 0.0 - - -
/a/c 0 40755 2 0 0 0 0.0 - - -
/a/f 1 100644 1 0 0 0 0.0 - x -
"""
MESSAGE = "is in two directories"


def circle(entry: bytes, leads_to: bytes) -> bytes:
    """An image whose directory entry `entry` leads to the directory `leads_to`."""
    data = image_bytes(tree_of(DUMP))
    nid = ErofsImage(data).lookup_path(leads_to)
    assert nid is not None
    return patched(data, dirent_of(data, entry), struct.pack("<Q", nid))


CIRCLES = [(b"/a/b", b"/a"), (b"/a/b", b"/"), (b"/a/c", b"/a/b"), (b"/a/c", b"/a")]


@pytest.mark.parametrize(("entry", "leads_to"), CIRCLES)
def test_walks(entry: bytes, leads_to: bytes) -> None:
    image = ErofsImage(circle(entry, leads_to))
    with pytest.raises(InputError, match=MESSAGE):
        list(ImageWalk(image).entries())
    with pytest.raises(InputError, match=MESSAGE):
        list(compare(ImageTree(image), ImageTree(image)))
    with pytest.raises(InputError, match=MESSAGE):
        neededobjects.paths_of(image, set(), Algorithm.SHA256)
    with pytest.raises(InputError, match=MESSAGE):
        ImageView(image, NoObjects()).path_of(1)


class NoObjects:
    def open(self, backing: Backing, size: int) -> Content:
        raise AssertionError

    def open_ready(self, backing: Backing, size: int) -> Content | None:
        raise AssertionError


def test_a_comparison_from_inside_the_circle() -> None:
    image = ErofsImage(circle(b"/a/b", b"/a"))
    with pytest.raises(InputError, match=MESSAGE):
        list(compare(ImageTree(image), ImageTree(image), b"/a/b/b"))


def test_attributes_are_asked_of_each_inode() -> None:
    """A scan that cannot look at all inodes refuses no question once and for all."""
    scan = XattrScan(ImageView(ErofsImage(circle(b"/a/c", b"/a/b")), NoObjects()), trusted=True)
    assert [scan.refusal(b"user.a") for _ in range(3)] == [0, 0, 0]
    sound = XattrScan(ImageView(ErofsImage(image_bytes(tree_of(DUMP))), NoObjects()), trusted=True)
    assert sound.refusal(b"user.a") == errno.ENOSYS


def test_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "repo")
    with Repository.init(path) as repo:
        repo.add_image(circle(b"/a/b", b"/a"), "circle")
        with pytest.raises(CfsError, match=MESSAGE):
            load_image(repo, "circle")
        with pytest.raises(CfsError, match=MESSAGE):
            checkout(repo, "circle", str(tmp_path / "tree"))
    for command in (
        ["diff", "circle", "circle"],
        ["diff", "circle", f"{tmp_path}/"],
        ["ls", "-R", "circle"],
        ["dump", "circle"],
        ["du"],
        ["gc"],
        ["fsck"],
        ["checkout", "circle", f"{tmp_path}/tree"],
    ):
        assert main(["--repo", path, *command]) not in (0, 70), command
        shown = capfd.readouterr()
        assert MESSAGE in shown.out + shown.err, command
