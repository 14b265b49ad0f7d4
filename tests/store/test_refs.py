"""Names: tags as file names, links that are replaced atomically."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsrepo.errors import UsageError
from cfsrepo.store import refs
from cfsrepo.system import linux


@pytest.mark.parametrize(
    ("tag", "encoded"),
    [
        ("debian:12", "debian:12"),
        ("reg.example/a/b:1", "reg.example%2Fa%2Fb:1"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("Zahl-\u00fc", "Zahl-\u00fc"),
        ("a b", "a b"),
    ],
)
def test_tags_as_cfsctl_spells_them(tag: str, encoded: str) -> None:
    assert refs.encode_tag(tag) == encoded
    assert refs.decode_tag(encoded) == tag


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40))
def test_encoding_can_be_undone(name: str) -> None:
    if name in (".", "..") or name.startswith("@"):
        with pytest.raises(UsageError):
            refs.encode_tag(name)
    else:
        encoded = refs.encode_tag(name)
        assert "/" not in encoded
        assert refs.decode_tag(encoded) == name


@pytest.mark.parametrize("encoded", ["%", "%2", "%2f", "%41", "a%%25"])
def test_other_percent_sequences_stay(encoded: str) -> None:
    assert refs.decode_tag(encoded) == encoded.replace("%25", "%")


@pytest.mark.parametrize("tag", ["", ".", "..", "@sha256:1", "a\nb", "a\0", "a\x7f", "x" * 256])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(UsageError):
        refs.encode_tag(tag)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/..", "./a", "a\0", "x" * 256])
def test_what_is_no_path(name: str) -> None:
    with pytest.raises(UsageError):
        refs.check_path(name)


def test_replace_link(tmp_path: Path) -> None:
    with linux.opened(str(tmp_path), os.O_RDONLY) as root:
        refs.replace_link(root, "a/b/c", "one")
        assert os.readlink(tmp_path / "a/b/c") == "one"
        before = os.lstat(tmp_path / "a/b/c").st_ino
        refs.replace_link(root, "a/b/c", "one")
        assert os.lstat(tmp_path / "a/b/c").st_ino == before
        refs.replace_link(root, "a/b/c", "two")
        assert os.readlink(tmp_path / "a/b/c") == "two"
        (tmp_path / "file").write_bytes(b"in the way")
        refs.replace_link(root, "file", "three")
        assert os.readlink(tmp_path / "file") == "three"
        with pytest.raises(UsageError, match="other names begin with 'a/'"):
            refs.replace_link(root, "a", "four")
        with pytest.raises(UsageError, match="no other name can begin with 'file/'"):
            refs.replace_link(root, "file/five", "five")
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]


def test_an_error_names_the_link(tmp_path: Path) -> None:
    with linux.opened(str(tmp_path), os.O_RDONLY) as root:
        with pytest.raises(OSError, match="File name too long") as caught:
            refs.replace_link(root, "x" * 300, "target")
    assert caught.value.filename == "x" * 300


def test_walk(tmp_path: Path) -> None:
    with linux.opened(str(tmp_path), os.O_RDONLY) as root:
        assert list(refs.walk(root, "absent")) == []
        refs.replace_link(root, "refs/one", "../x")
        refs.replace_link(root, "refs/a/b/two", "../../../y")
        (tmp_path / "refs" / "stray").write_bytes(b"")
        os.symlink("a", tmp_path / "refs" / "to-directory")
        assert sorted(refs.walk(root, "refs")) == [
            ("a/b/two", "../../../y"),
            ("one", "../x"),
            ("to-directory", "a"),
        ]
    assert refs.last_component("../../../y") == "y"
