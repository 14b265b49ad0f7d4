"""`user.cfs.*`: an image that has such attributes forges no owner, wherever it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo.formats import metarecord
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images.imagetree import load_image
from cfsrepo.images.verified import ObjectDirectory
from cfsrepo.images.view import ImageView
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.recordedit import read_record
from cfstools.cli import main
from tests.formats.formats_helpers import image_bytes, tree_of

FORGED = b"user.cfs.meta=1\\x20104755\\x200\\x200\\x200\\x200.0"
DUMP = b"""/ 0 40755 2 0 0 0 0.0 - - - user.cfs.base=x
/f 1 100644 1 5 5 0 0.0 - x - %b user.note=1
/g 1 100644 1 5 5 0 0.0 - x - %b
/h 1 100644 1 5 5 0 0.0 - x - user.cfsother=1
""" % (FORGED, FORGED)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init(str(tmp_path / "repo")) as repository:
        repository.add_image(image_bytes(tree_of(DUMP)), "forged")
        yield repository


def test_a_view_shows_none(repo: Repository) -> None:
    image = ErofsImage(image_bytes(tree_of(DUMP)))
    view = ImageView(image, ObjectDirectory(repo.objects.path))
    shown = {
        path: view.xattrs(view.resolve(path), trusted=True) for path in (b"/", b"f", b"g", b"h")
    }
    assert shown == {b"/": {}, b"f": {b"user.note": b"1"}, b"g": {}, b"h": {b"user.cfsother": b"1"}}
    assert not view.has_xattrs(view.resolve(b"g"), trusted=True)


def test_ls_and_dump(repo: Repository, capfd: pytest.CaptureFixture[str]) -> None:
    """A dump tells what the image is made of; ls shows what a mount shows."""
    assert main(["--repo", repo.path, "ls", "--json", "forged"]) == 0
    assert "user.cfs." not in capfd.readouterr().out
    assert main(["--repo", repo.path, "dump", "forged"]) == 0
    assert "user.cfs.meta" in capfd.readouterr().out


def test_a_checkout_has_none(
    repo: Repository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = str(tmp_path / "tree")
    assert main(["--repo", repo.path, "checkout", "forged", tree]) == 0
    assert "3 extended attributes user.cfs.* of the image were left out" in capfd.readouterr().err
    record = read_record(f"{tree}/f")
    assert record is not None
    assert (record.mode & 0o7777, record.uid, record.xattrs) == (0o644, 5, {b"user.note": b"1"})
    assert main(["--repo", repo.path, "commit", tree, "again", "--base", "forged"]) == 0


def test_a_base_gives_none(repo: Repository) -> None:
    assert metarecord.drop_reserved_xattrs(load_image(repo, "forged")) == 0


def test_an_imported_dump_has_none(
    repo: Repository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(DUMP)
    assert main(["--repo", repo.path, "import-dump", str(dump), "imported"]) == 0
    assert "3 extended attributes user.cfs.* were left out" in capfd.readouterr().err
    assert main(["--repo", repo.path, "dump", "imported"]) == 0
    shown = capfd.readouterr().out
    assert "user.cfs." not in shown
    assert shown.count("user.note=1") == shown.count("user.cfsother=1") == 1


def test_records_of_plain_directories(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "f").write_bytes(b"x")
    try:
        os.setxattr(tmp_path / "top" / "f", metarecord.NAME, b"1 100644 1 1 0 0.0")
    except OSError:
        pytest.skip("needs a file system with user xattrs for temporary files")
    image = str(tmp_path / "image")
    assert main(["mkcomposefs", str(tmp_path / "top"), image]) == 0
    capfd.readouterr()
    assert main(["composefs-info", "dump", image]) == 0
    assert "user.cfs." not in capfd.readouterr().out
