"""Paths of a layer: absolute ones, and those through symbolic links of its own and of others."""

from __future__ import annotations

import pytest

from cfsrepo.errors import InputError, LimitError
from tests.oci.oci_builder import archive, directory, hardlink, member, opaque, symlink, whiteout
from tests.oci.test_oci_merge import at, merged, paths


def test_absolute_names_are_relative_to_the_root() -> None:
    lower = archive(
        directory(b"/"),
        directory(b"/d", mode=0o700),
        member(b"//d/a", b"a"),
        member(b"/b", b"b"),
        hardlink(b"/c", b"/b"),
        member(b"/.wh..wh.aufs"),
    )
    assert paths(merged(lower)) == ["/b", "/c", "/d", "/d/a"]
    upper = archive(member(b"/.wh.b"), member(b"/d/.wh..wh..opq"), member(b"/d/n"))
    assert paths(merged(lower, upper)) == ["/c", "/d", "/d/n"]


# Links of the same layer: the entries, what comes of them.
WITHIN = {
    "relative": ([symlink(b"s", b"d"), member(b"s/n")], ["/d", "/d/n", "/s"]),
    "absolute": ([symlink(b"s", b"/d"), member(b"s/n")], ["/d", "/d/n", "/s"]),
    "to the root": ([symlink(b"s", b"/"), member(b"s/n")], ["/d", "/n", "/s"]),
    "out of the root": ([symlink(b"s", b"../../d"), member(b"s/n")], ["/d", "/d/n", "/s"]),
    "out, absolute": ([symlink(b"s", b"/../../x"), member(b"s/n")], ["/d", "/s", "/x", "/x/n"]),
    "with dots": ([symlink(b"s", b"./d/../d/."), member(b"s/n")], ["/d", "/d/n", "/s"]),
    "below the top": (
        [symlink(b"d/s", b"../e"), member(b"d/s/n")],
        ["/d", "/d/s", "/e", "/e/n"],
    ),
    "to a link": (
        [symlink(b"s", b"t"), symlink(b"t", b"d"), member(b"s/n")],
        ["/d", "/d/n", "/s", "/t"],
    ),
    "to nothing yet": (
        [symlink(b"s", b"x/y"), member(b"s/n")],
        ["/d", "/s", "/x", "/x/y", "/x/y/n"],
    ),
    "through what is not there": (
        [symlink(b"s", b"x/../d"), member(b"s/n")],
        ["/d", "/d/n", "/s"],
    ),
    "a hard link to a link": (
        [symlink(b"s", b"d"), hardlink(b"t", b"s"), member(b"t/n")],
        ["/d", "/d/n", "/s", "/t"],
    ),
    "hard link through a link": (
        [member(b"d/a"), symlink(b"s", b"/d"), hardlink(b"b", b"s/a")],
        ["/b", "/d", "/d/a", "/s"],
    ),
    "the link itself is replaced": (
        [symlink(b"s", b"d"), member(b"s/n"), directory(b"s"), member(b"s/m")],
        ["/d", "/d/n", "/s", "/s/m"],
    ),
    "another link takes its place": (
        [symlink(b"s", b"d"), member(b"s/n"), symlink(b"s", b"e"), member(b"s/m")],
        ["/d", "/d/n", "/e", "/e/m", "/s"],
    ),
}


@pytest.mark.parametrize("case", WITHIN)
def test_links_of_the_same_layer_are_followed_within_the_root(case: str) -> None:
    entries, expected = WITHIN[case]
    warnings: list[str] = []
    layer = archive(directory(b"d"), *entries)
    assert paths(merged(layer, warnings=warnings)) == expected
    # The same on top of another layer, where what is new has to be told from what is not.
    assert paths(merged(archive(directory(b"d")), layer, warnings=warnings)) == expected
    assert warnings == []


def test_markers_go_through_links_of_the_same_layer() -> None:
    lower = archive(directory(b"d"), member(b"d/a"), member(b"d/b"))
    upper = archive(symlink(b"s", b"d"), whiteout(b"s/a"))
    assert paths(merged(lower, upper)) == ["/d", "/d/b", "/s"]
    upper = archive(symlink(b"s", b"d"), opaque(b"s"), member(b"s/n"))
    assert paths(merged(lower, upper)) == ["/d", "/d/n", "/s"]


LOWER = archive(
    directory(b"usr"),
    directory(b"usr/bin", mode=0o711, uid=5),
    member(b"usr/bin/sh"),
    symlink(b"bin", b"usr/bin"),
    member(b"file", b"f"),
)
KEPT = ["/usr", "/usr/bin", "/usr/bin/sh"]


def test_a_directory_replaces_a_link_of_a_layer_below() -> None:
    warnings: list[str] = []
    root = merged(LOWER, archive(member(b"bin/tool"), member(b"bin/more")), warnings=warnings)
    assert paths(root) == ["/bin", "/bin/more", "/bin/tool", "/file", *KEPT]
    assert (at(root, "/bin").mode & 0o7777, at(root, "/bin").uid) == (0o755, 0)
    (warning,) = warnings
    assert "layer 2" in warning
    assert "/bin -> usr/bin" in warning


def test_a_directory_replaces_a_file_of_a_layer_below() -> None:
    warnings: list[str] = []
    root = merged(LOWER, archive(member(b"file/x/y")), warnings=warnings)
    assert paths(root) == ["/bin", "/file", "/file/x", "/file/x/y", *KEPT]
    assert len(warnings) == 1
    assert "/file" in warnings[0]


def test_a_link_of_this_layer_to_one_below() -> None:
    """The first is followed, the second is not."""
    warnings: list[str] = []
    root = merged(LOWER, archive(symlink(b"s", b"bin"), member(b"s/tool")), warnings=warnings)
    assert paths(root) == ["/bin", "/bin/tool", "/file", "/s", *KEPT]
    assert "/bin -> usr/bin" in warnings[0]


def test_a_link_that_an_upper_layer_brings_again_is_its_own() -> None:
    warnings: list[str] = []
    upper = archive(symlink(b"bin", b"usr/bin"), member(b"bin/tool"))
    root = merged(LOWER, upper, warnings=warnings)
    assert paths(root) == ["/bin", "/file", "/usr", "/usr/bin", "/usr/bin/sh", "/usr/bin/tool"]
    assert warnings == []


def test_markers_below_a_link_of_a_layer_below_delete_nothing() -> None:
    warnings: list[str] = []
    for upper in (whiteout(b"bin/sh"), opaque(b"bin"), whiteout(b"file/x")):
        assert paths(merged(LOWER, archive(upper), warnings=warnings)) == ["/bin", "/file", *KEPT]
    assert warnings == []


def test_a_whiteout_beside_the_directory_that_replaces_a_link() -> None:
    for parts in (
        [whiteout(b"bin"), member(b"bin/tool")],
        [member(b"bin/tool"), whiteout(b"bin")],
    ):
        assert paths(merged(LOWER, archive(*parts))) == ["/bin", "/bin/tool", "/file", *KEPT]


def test_the_warning_is_one_line_however_many_links_there_are() -> None:
    links = archive(*(symlink(b"%02d" % number, b"/usr\n") for number in range(50)))
    warnings: list[str] = []
    upper = archive(*(member(b"%02d/x" % number) for number in range(50)))
    merged(links, upper, archive(member(b"new")), warnings=warnings)
    (warning,) = warnings
    assert "/00 -> " in warning
    assert "and 42 more" in warning
    assert "\n" not in warning
    assert len(warning) < 1000


REFUSED = {
    "a circle": ([symlink(b"s", b"t"), symlink(b"t", b"s"), member(b"s/x")], "in a circle"),
    "a circle of one": ([symlink(b"s", b"s"), member(b"s/x")], "in a circle"),
    "links without end": ([symlink(b"s", b"s/s"), member(b"s/x")], "in a circle"),
    "a file": ([member(b"f"), symlink(b"s", b"f"), member(b"s/x")], "no directory"),
    "a whiteout": ([symlink(b"s", b".wh.d"), member(b"s/x")], "below a whiteout"),
    "a long name": ([symlink(b"s", b"n" * 300), member(b"s/x")], "a name of 300 bytes"),
    "a hard link to nothing": ([symlink(b"s", b"d"), hardlink(b"b", b"s/a")], "does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_links_that_no_path_may_go_through(case: str) -> None:
    entries, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        merged(archive(directory(b"d"), *entries))


def test_a_hard_link_to_a_link_is_not_followed() -> None:
    root = merged(archive(symlink(b"s", b"/"), hardlink(b"b", b"s")))
    assert at(root, "/b") is at(root, "/s")


def test_a_path_that_links_make_too_long() -> None:
    deep = b"/".join([b"d" * 200] * 15)
    layer = archive(symlink(b"s", deep), member(b"s/" + b"e/" * 1000 + b"f"))
    with pytest.raises(LimitError, match="a path of"):
        merged(layer)
