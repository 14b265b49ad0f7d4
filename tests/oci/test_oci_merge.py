"""Layers to one tree: the rules, in either order of markers, and what a layer must not do."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.splitstream import Digest
from cfsrepo.formats.tar.reader import Member
from cfsrepo.formats.tar.stream import TarStream
from cfsrepo.formats.tree import Inode, walk
from cfsrepo.oci import merge
from cfsrepo.oci.limits import DEFAULT_LIMITS, Limits
from cfsrepo.oci.merge import Content, Merger, XattrMode
from tests.oci.oci_builder import (
    CHAR,
    archive,
    directory,
    hardlink,
    member,
    opaque,
    symlink,
    whiteout,
)


def members(tar: bytes) -> Iterator[tuple[Member, Content]]:
    stream = TarStream(iter([tar]), "test")
    for item in stream:
        content: Content = b"".join(stream.read_data()) or None
        if item.size > merge.INLINE_MAX:
            content = Digest(bytes(32))
        yield item, content


def merged(
    *layers: bytes,
    xattrs: XattrMode = XattrMode.OCI,
    limits: Limits = DEFAULT_LIMITS,
    warnings: list[str] | None = None,
) -> Inode:
    merger = Merger(xattrs, limits=limits, warn=None if warnings is None else warnings.append)
    for number, layer in enumerate(layers, 1):
        merger.add_layer(members(layer), f"layer {number}")
    return merger.finish()


def paths(root: Inode) -> list[str]:
    return [path.decode() for path, _ in walk(root)][1:]


def at(root: Inode, path: str) -> Inode:
    return dict(walk(root))[path.encode()]


LOWER = archive(
    directory(b"d", mode=0o700, uid=1),
    member(b"d/a", b"lower"),
    directory(b"d/s", mode=0o711, uid=2),
    member(b"d/s/x", b"lower"),
    directory(b"d/s/t"),
    member(b"d/s/t/y", b"lower"),
    member(b"f", b"lower"),
)


def test_directories_merge_and_the_upper_metadata_wins() -> None:
    root = merged(LOWER, archive(directory(b"d", mode=0o755, uid=9, mtime=4), member(b"d/n")))
    assert paths(root) == ["/d", "/d/a", "/d/n", "/d/s", "/d/s/t", "/d/s/t/y", "/d/s/x", "/f"]
    found = at(root, "/d")
    assert (found.mode, found.uid, found.mtime_sec) == (stat.S_IFDIR | 0o755, 9, 4)


def test_xattrs_of_a_directory_are_replaced_too() -> None:
    cap = {b"SCHILY.xattr.security.capability": b"cap"}
    assert at(merged(archive(directory(b"d", pax=cap))), "/d").xattrs
    assert (
        at(merged(archive(directory(b"d", pax=cap)), archive(directory(b"d"))), "/d").xattrs is None
    )


# Each marker stands before and after what its own layer brings: the result is the same.
MARKERS = {
    "whiteout of a file": (
        [whiteout(b"f")],
        [],
        ["/d", "/d/a", "/d/s", "/d/s/t", "/d/s/t/y", "/d/s/x"],
    ),
    "whiteout and file": (
        [whiteout(b"f")],
        [member(b"f", b"upper")],
        ["/d", "/d/a", "/d/s", "/d/s/t", "/d/s/t/y", "/d/s/x", "/f"],
    ),
    "whiteout of a directory": ([whiteout(b"d")], [], ["/f"]),
    "whiteout and directory": (
        [whiteout(b"d")],
        [directory(b"d"), member(b"d/n", b"upper")],
        ["/d", "/d/n", "/f"],
    ),
    "whiteout of a directory deep down": (
        [whiteout(b"d/s")],
        [directory(b"d/s"), directory(b"d/s/t"), member(b"d/s/t/n")],
        ["/d", "/d/a", "/d/s", "/d/s/t", "/d/s/t/n", "/f"],
    ),
    "opaque": ([opaque(b"d")], [member(b"d/n", b"upper")], ["/d", "/d/n", "/f"]),
    "opaque over a file of the same name": (
        [opaque(b"d")],
        [member(b"d/a", b"upper")],
        ["/d", "/d/a", "/f"],
    ),
    "opaque over a directory of the same name": (
        [opaque(b"d")],
        [directory(b"d/s"), member(b"d/s/n")],
        ["/d", "/d/s", "/d/s/n", "/f"],
    ),
    "opaque and a parent that was not said again": (
        [opaque(b"d")],
        [member(b"d/s/n")],
        ["/d", "/d/s", "/d/s/n", "/f"],
    ),
    "opaque root": ([member(b".wh..wh..opq")], [member(b"n")], ["/n"]),
    "whiteout of a file in a directory": (
        [whiteout(b"d/a")],
        [],
        ["/d", "/d/s", "/d/s/t", "/d/s/t/y", "/d/s/x", "/f"],
    ),
}


@pytest.mark.parametrize("case", MARKERS)
def test_markers_stand_anywhere(case: str) -> None:
    markers, entries, expected = MARKERS[case]
    assert paths(merged(LOWER, archive(*markers, *entries))) == expected
    assert paths(merged(LOWER, archive(*entries, *markers))) == expected


def test_content_after_a_marker_is_the_upper_one() -> None:
    for parts in (
        [whiteout(b"f"), member(b"f", b"upper")],
        [member(b"f", b"upper"), whiteout(b"f")],
    ):
        assert at(merged(LOWER, archive(*parts)), "/f").content == b"upper"


def test_a_parent_below_an_opaque_marker_loses_its_metadata() -> None:
    root = merged(LOWER, archive(member(b"d/s/n"), opaque(b"d")))
    assert (at(root, "/d/s").mode, at(root, "/d/s").uid) == (stat.S_IFDIR | 0o755, 0)
    assert (at(root, "/d").mode, at(root, "/d").uid) == (stat.S_IFDIR | 0o700, 1)


def test_markers_in_the_lowest_layer_delete_nothing() -> None:
    root = merged(
        archive(member(b"f"), whiteout(b"f"), directory(b"d"), member(b"d/x"), opaque(b"d"))
    )
    assert paths(root) == ["/d", "/d/x", "/f"]


def test_markers_for_what_is_not_there() -> None:
    assert paths(merged(LOWER, archive(whiteout(b"no/such"), opaque(b"no/dir"), opaque(b"f")))) == (
        paths(merged(LOWER))
    )


def test_aufs_bookkeeping_is_left_out() -> None:
    upper = archive(
        member(b".wh..wh.aufs"),
        directory(b".wh..wh.plnk"),
        member(b".wh..wh.plnk/1.2"),
        member(b"n"),
    )
    assert paths(merged(upper)) == ["/n"]


def test_whiteout_removes_and_a_later_layer_restores() -> None:
    root = merged(LOWER, archive(whiteout(b"d")), archive(directory(b"d", uid=5)))
    assert paths(root) == ["/d", "/f"]
    assert at(root, "/d").uid == 5


def test_directory_replaced_by_file_and_back() -> None:
    root = merged(LOWER, archive(member(b"d"), directory(b"d"), member(b"d/n")))
    assert paths(root) == ["/d", "/d/n", "/f"]


def test_hard_links_are_one_inode() -> None:
    root = merged(
        archive(
            member(b"a", b"x"), hardlink(b"b", b"a"), symlink(b"s", b"a"), hardlink(b"t", b"s")
        ),
        archive(hardlink(b"c", b"./b"), whiteout(b"a")),
    )
    assert paths(root) == ["/b", "/c", "/s", "/t"]
    assert at(root, "/b") is at(root, "/c")
    assert at(root, "/b").nlink == 2
    assert at(root, "/s") is at(root, "/t")
    assert at(root, "/s").payload == b"a"


def test_link_counts_of_directories() -> None:
    root = merged(LOWER)
    assert (root.nlink, at(root, "/d").nlink, at(root, "/d/s/t").nlink) == (3, 3, 2)


def test_parents_are_made() -> None:
    root = merged(archive(member(b"a/b/c", b"x")))
    for path in ("/a", "/a/b"):
        found = at(root, path)
        assert (found.mode, found.uid, found.mtime_sec) == (stat.S_IFDIR | 0o755, 0, 0)
    root = merged(archive(member(b"a/b/c", b"x"), directory(b"a", mode=0o700)))
    assert at(root, "/a").mode == stat.S_IFDIR | 0o700
    assert paths(root) == ["/a", "/a/b", "/a/b/c"]


@pytest.mark.parametrize("path", [b"./a/b", b"a//b", b"a/./b", b".//a/.//b/", b"a/b/."])
def test_spellings_of_a_path(path: bytes) -> None:
    assert paths(merged(archive(directory(path)))) == ["/a", "/a/b"]


def test_root_entry() -> None:
    for path in (b"./", b"/", b".", b"././"):
        root = merged(archive(directory(path, mode=0o700, uid=3, mtime=9)))
        assert (root.mode, root.uid, root.mtime_sec) == (stat.S_IFDIR | 0o700, 3, 9)
    with pytest.raises(InputError, match="must be a directory"):
        merged(archive(member(b".")))


def test_root_takes_after_usr() -> None:
    cap = {b"SCHILY.xattr.security.capability": b"cap"}
    root = merged(
        archive(directory(b".", uid=3), directory(b"usr", mode=0o751, uid=4, mtime=7, pax=cap))
    )
    assert (root.mode, root.uid, root.mtime_sec) == (stat.S_IFDIR | 0o751, 4, 7)
    assert root.xattrs == {b"security.capability": b"cap"}
    root = merged(archive(symlink(b"usr", b"x")))
    assert (root.mode, root.uid, root.mtime_sec) == (stat.S_IFDIR | 0o755, 0, 0)


def test_run_is_emptied() -> None:
    root = merged(
        archive(
            directory(b"usr", mtime=7),
            member(b"keep"),
            directory(b"run", mtime=3, mode=0o711),
            hardlink(b"run/keep", b"keep"),
        )
    )
    assert paths(root) == ["/keep", "/run", "/usr"]
    assert (at(root, "/run").mtime_sec, at(root, "/run").mode) == (7, stat.S_IFDIR | 0o711)
    assert at(root, "/keep").nlink == 1
    assert paths(merged(archive(member(b"run", b"x")))) == ["/run"]


XATTRS = {
    b"SCHILY.xattr.security.capability": b"cap",
    b"SCHILY.xattr.user.a": b"1",
    b"SCHILY.xattr.trusted.b": b"2",
    b"SCHILY.xattr.user.cfs.meta": b"1 104755 0 0 0 0.0",
    b"SCHILY.xattr.user.overlay.opaque": b"y",
    b"SCHILY.xattr.trusted.overlay.redirect": b"/x",
}


def test_which_xattrs_stay() -> None:
    layer = archive(member(b"f", pax=XATTRS))
    assert at(merged(layer), "/f").xattrs == {b"security.capability": b"cap"}
    assert at(merged(layer, xattrs=XattrMode.ALL), "/f").xattrs == {
        b"security.capability": b"cap",
        b"user.a": b"1",
        b"trusted.b": b"2",
    }
    merger = Merger()
    merger.add_layer(members(layer))
    assert merger.dropped_xattrs == 1


def test_contents() -> None:
    root = merged(
        archive(
            member(b"empty"),
            member(b"inline", b"x" * 64),
            member(b"object", b"x" * 65),
            member(b"null", kind=CHAR, device=(1, 3)),
        )
    )
    assert (at(root, "/empty").size, at(root, "/empty").content) == (0, None)
    assert (at(root, "/inline").size, at(root, "/inline").content) == (64, b"x" * 64)
    found = at(root, "/object")
    assert (found.size, found.content, found.digest) == (65, None, bytes(32))
    assert found.payload == b"00/" + b"00" * 31
    assert at(root, "/null").rdev == 0x103


REFUSED = {
    "..": (archive(member(b"a/../b")), "'..' in a path"),
    ".. at the start": (archive(member(b"../b")), "'..' in a path"),
    ".. at the end": (archive(directory(b"a/..")), "'..' in a path"),
    ".. absolute": (archive(member(b"/../../etc/passwd")), "'..' in a path"),
    ".. in a hard link": (archive(member(b"a"), hardlink(b"b", b"../a")), "'..' in a path"),
    "hard link to nothing": (archive(hardlink(b"b", b"a")), "does not exist"),
    "hard link to itself": (archive(hardlink(b"b", b"b")), "does not exist"),
    "hard link to what comes later": (archive(hardlink(b"b", b"a"), member(b"a")), "not exist"),
    "hard link to a directory": (archive(directory(b"a"), hardlink(b"b", b"a")), "a directory"),
    "hard link to the root": (archive(hardlink(b"b", b"/")), "does not exist"),
    "below a file": (archive(member(b"f"), member(b"f/a")), "no directory"),
    "below a hard link": (
        archive(member(b"f"), hardlink(b"g", b"f"), member(b"g/a/b")),
        "no directory",
    ),
    "whiteout of nothing": (archive(member(b".wh.")), "whiteout without a name"),
    "whiteout of .": (archive(member(b"d/.wh..")), "whiteout without a name"),
    "whiteout of ..": (archive(member(b"d/.wh...")), "whiteout without a name"),
    "below a whiteout": (archive(member(b".wh.d/a")), "below a whiteout"),
    "name of 256 bytes": (archive(member(b"n" * 256)), "a name of 256 bytes"),
    "directory name of 256 bytes": (archive(member(b"n" * 256 + b"/x")), "a name of 256 bytes"),
    "path of 4097 bytes": (archive(member(b"n/" * 2048 + b"x")), "a path of 4097 bytes"),
    "link of 4096 bytes": (archive(symlink(b"s", b"t" * 4096)), "link of 4096 bytes"),
    "hard link of 5000 bytes": (archive(hardlink(b"s", b"t/" * 2500)), "a path of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    layer, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        merged(layer)


def test_xattrs_over_the_limits() -> None:
    for key, value in ((b"user." + b"n" * 251, b""), (b"user.a", b"v" * 65536)):
        layer = archive(member(b"f", pax={b"SCHILY.xattr." + key: value}))
        with pytest.raises(LimitError, match="over the limits"):
            merged(layer, xattrs=XattrMode.ALL)
        merged(layer)  # it is left out anyway


NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
PARTS = st.one_of(
    st.builds(lambda path: directory(path), PATHS),
    st.builds(lambda path, data: member(path, data), PATHS, st.binary(max_size=3)),
    st.builds(whiteout, PATHS),
    st.builds(opaque, PATHS),
    st.builds(hardlink, PATHS, PATHS),
    st.builds(symlink, PATHS, PATHS),
)
LAYERS = st.lists(st.lists(PARTS, max_size=6), min_size=1, max_size=3)


@settings(max_examples=500)
@given(LAYERS)
def test_any_layers_make_a_sound_tree_or_an_error(layers: list[list[bytes]]) -> None:
    root = merged_or_error([archive(*parts) for parts in layers])
    if isinstance(root, InputError):
        return
    names: dict[int, int] = {}
    for path, inode in walk(root):
        assert (inode.entries is not None) == stat.S_ISDIR(inode.mode)
        names[id(inode)] = names.get(id(inode), 0) + 1
        assert b".wh." not in path
    for _, inode in walk(root):
        if inode.entries is None:
            assert inode.nlink == names[id(inode)]
        else:
            assert names[id(inode)] == 1


@settings(max_examples=300)
@given(st.lists(st.lists(st.builds(member, PATHS), max_size=5), min_size=1, max_size=2), PATHS)
def test_an_opaque_marker_hides_exactly_the_layers_below(
    layers: list[list[bytes]], path: bytes
) -> None:
    """Wherever it stands: as if the layers below had never put anything there."""
    *lower, upper = [[directory(path), *parts] for parts in layers]
    below = [archive(*parts) for parts in lower]
    results = [
        merged_or_error([*below, archive(*upper[:cut], opaque(path), *upper[cut:])])
        for cut in range(len(upper) + 1)
    ]
    if any(isinstance(root, InputError) for root in results):
        return
    trees = [paths(root) for root in results if isinstance(root, Inode)]
    assert all(tree == trees[0] for tree in trees)


def merged_or_error(layers: list[bytes]) -> Inode | InputError:
    try:
        return merged(*layers)
    except InputError as error:
        return error
