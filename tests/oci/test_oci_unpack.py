"""Layers as bare-user trees: the same as pulled ones, and nothing outside, whatever they say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats import metarecord
from cfsrepo.formats.metarecord import Meta
from cfsrepo.oci.importer import pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.unpack import unpack
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.recordedit import read_record
from tests.oci.oci_builder import (
    CHAR,
    END,
    FIFO,
    LayoutBuilder,
    archive,
    base,
    directory,
    gzip,
    hardlink,
    header,
    member,
    opaque,
    symlink,
    whiteout,
    zstd,
)

DATA = bytes(range(256)) * 30


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository


def written(path: object, *archives: bytes) -> list[str]:
    """The archives as files."""
    names = []
    for number, data in enumerate(archives):
        names.append(f"{path}/layer-{number}.tar")
        with open(names[-1], "wb") as file:
            file.write(data)
    return names


LAYERS = [
    base(
        directory(b"etc", mode=0o700, uid=3, mtime=5),
        member(b"etc/a", DATA, mode=0o4755, mtime=6),
        member(b"etc/b", b"small"),
        hardlink(b"etc/c", b"etc/a"),
        symlink(b"etc/s", b"a", mtime=7),
        symlink(b"etc/o", b"../x", uid=1),
        member(b"null", kind=CHAR, device=(1, 3), mode=0o666),
        member(b"fifo", kind=FIFO),
        directory(b"gone"),
        member(b"gone/x", DATA),
        directory(b"run", mtime=9),
        member(b"run/pid", DATA),
        member(b"sparse", b"ab", pax={b"GNU.sparse.map": b"0,1,9,1", b"GNU.sparse.size": b"10"}),
        member(
            b"big-sparse",
            DATA,
            pax={b"GNU.sparse.map": b"4096,7000,20000,680", b"GNU.sparse.size": b"30000"},
        ),
    ),
    archive(
        member(b"etc/new", DATA[:100]),
        whiteout(b"gone"),
        opaque(b"etc"),
        member(b"no/parent", b"x"),
    ),
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("pack", [bytes, gzip, zstd])
def test_unpacked_and_committed_is_pulled(
    count: int, pack: type[bytes], repo: Repository, tmp_path: object
) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(*LAYERS[:count])
    pulled = pull(repo, layout.source(), "pulled")
    files = written(tmp_path, *(pack(layer) for layer in LAYERS[:count]))
    tree = unpacked(files, f"{tmp_path}/tree")
    assert commit(repo, tree).image_id == pulled.image_id
    assert not [name for name in os.listdir(tree) if name.startswith(".cfs")]


def test_all_xattrs(repo: Repository, tmp_path: object) -> None:
    layer = base(
        member(b"f", pax={b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.user.cfs.meta": b"2"})
    )
    tree = unpacked(written(tmp_path, layer), f"{tmp_path}/tree", xattrs=XattrMode.ALL)
    record = read_record(f"{tree}/f")
    assert record is not None
    assert record.xattrs == {b"user.a": b"1"}
    assert os.listxattr(f"{tree}/f") == [metarecord.NAME]


def test_sparse_files_stay_sparse(tmp_path: object) -> None:
    tree = unpacked(written(tmp_path, LAYERS[0]), f"{tmp_path}/tree")
    with open(f"{tree}/big-sparse", "rb") as file:
        content = file.read()
    expected = bytearray(30000)
    expected[4096:11096] = DATA[:7000]
    expected[20000:20680] = DATA[7000:]
    assert content == bytes(expected)
    with open(f"{tree}/sparse", "rb") as file:
        assert file.read() == b"a" + bytes(8) + b"b"


# -- hostile archives -----------------------------------------------------------------------------

FORGED = {b"SCHILY.xattr.user.cfs.meta": b"1 104755 0 0 0 0.0"}

HOSTILE = {
    "..": [archive(member(b"../evil", b"x"))],
    ".. below": [archive(directory(b"d"), member(b"d/../../evil", b"x"))],
    ".. deep": [archive(member(b"a/b/c/../../../../evil", b"x"))],
    ".. directory": [archive(directory(b"..", mode=0o777))],
    ".. hard link": [archive(hardlink(b"evil", b"../outside/secret"))],
    "hard link out, absolute": [archive(hardlink(b"evil", b"/etc/passwd"))],
    "hard link through a symlink": [
        archive(symlink(b"s", b"../outside"), hardlink(b"evil", b"s/secret"))
    ],
    "over a symlink's place as a directory": [
        archive(symlink(b"s", b"../outside"), member(b"s", b"x"), member(b"s/evil"))
    ],
    "whiteout out": [archive(member(b".wh...", b""))],
    "name of 300 bytes": [archive(member(b"n" * 300))],
    "path of 5000 bytes": [archive(member(b"n/" * 2500))],
    "xattr of 70000 bytes": [archive(member(b"x", pax={b"SCHILY.xattr.user.a": bytes(70_000)}))],
    "metadata without end": [header(b"x", b"x", size=1 << 40) + bytes(1 << 20)],
    "size without end": [archive(header(b"x", size=1 << 50))],
    "cut off": [archive(member(b"x", DATA))[:2000]],
    "garbage": [b"not a tar at all" * 100],
    "cut gzip": [gzip(LAYERS[0])[:-100]],
    "cut zstd": [zstd(LAYERS[0])[:-100]],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(case: str, tmp_path: object) -> None:
    outside = f"{tmp_path}/outside"
    os.mkdir(outside)
    with open(f"{outside}/secret", "w") as file:
        file.write("mine")
    files = written(tmp_path, *HOSTILE[case])
    before = sorted(os.listdir(str(tmp_path)))
    with pytest.raises(InputError) as caught:
        unpack(files, f"{tmp_path}/tree", xattrs=XattrMode.ALL)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(str(tmp_path))) == sorted([*before, "tree"])
    assert os.listdir(outside) == ["secret"]
    assert os.listdir(f"{tmp_path}/tree") == []
    assert not os.path.exists("/tmp/evil")


# Names that seem to lead out of the tree: what is unpacked, all of it in the tree.
INSIDE = {
    "absolute": ([archive(member(b"/tmp/evil", b"x"))], ["tmp", "tmp/evil"]),
    "through a symlink": (
        [archive(symlink(b"s", b"../outside"), member(b"s/evil", b"x"))],
        ["outside", "outside/evil", "s"],
    ),
    "through an absolute symlink": (
        [archive(symlink(b"s", b"/"), member(b"s/tmp/evil", b"x"))],
        ["s", "tmp", "tmp/evil"],
    ),
    "through a symlink of another layer": (
        [archive(symlink(b"s", b"../outside")), archive(member(b"s/evil", b"x"))],
        ["s", "s/evil"],
    ),
    "through a hard link to a symlink": (
        [archive(symlink(b"s", b"../outside"), hardlink(b"t", b"s"), member(b"t/evil", b"x"))],
        ["outside", "outside/evil", "s", "t"],
    ),
    "whiteout through a symlink": (
        [archive(symlink(b"s", b"../outside"), member(b"s/.wh.secret"), member(b"s/evil"))],
        ["outside", "outside/evil", "s"],
    ),
}


@pytest.mark.parametrize("case", INSIDE)
def test_nothing_is_written_outside(case: str, tmp_path: object) -> None:
    outside = f"{tmp_path}/outside"
    os.mkdir(outside)
    with open(f"{outside}/secret", "w") as file:
        file.write("mine")
    layers, expected = INSIDE[case]
    tree = f"{tmp_path}/tree"
    unpack(written(tmp_path, *layers), tree)
    found = [
        os.path.relpath(os.path.join(parent, name), tree)
        for parent, directories, files in os.walk(tree)
        for name in directories + files
    ]
    assert sorted(found) == expected
    assert os.listdir(outside) == ["secret"]
    assert not os.path.exists("/tmp/evil")


def test_links_that_lead_out_are_only_names(tmp_path: object) -> None:
    layer = base(
        symlink(b"s", b"/etc/passwd"),
        symlink(b"t", b"../../outside"),
        directory(b"d"),
        symlink(b"d/s", b"/"),
        member(b"s2", b"x"),
    )
    tree = unpacked(written(tmp_path, layer), f"{tmp_path}/tree")
    assert os.readlink(f"{tree}/s") == "/etc/passwd"
    assert os.readlink(f"{tree}/t") == "../../outside"


def test_no_rights_are_given(tmp_path: object) -> None:
    """Whatever an archive says: no setuid, no device, nothing for others to write."""
    layer = base(
        *(
            member(b"f%o" % mode, b"x", mode=mode, pax=FORGED)
            for mode in (0o7777, 0o4755, 0o2755, 0o1777, 0o666, 0o777, 0)
        ),
        directory(b"d7777", mode=0o7777, pax=FORGED),
        member(b"dev", kind=CHAR, device=(1, 1), mode=0o666, pax=FORGED),
        member(b"disk", kind=b"4", device=(8, 0), mode=0o666),
        member(b"fifo", kind=FIFO, mode=0o666),
        member(
            b"cap",
            b"x",
            pax={b"SCHILY.xattr.security.capability": bytes.fromhex("01000002" + "ff" * 16)},
        ),
    )
    tree = unpacked(written(tmp_path, layer), f"{tmp_path}/tree", xattrs=XattrMode.ALL)
    for name in os.listdir(tree):
        info = os.lstat(f"{tree}/{name}")
        assert stat.S_IMODE(info.st_mode) & 0o7022 == 0
        assert stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)
        assert info.st_uid == os.geteuid()
        assert os.listxattr(f"{tree}/{name}") == [metarecord.NAME]
    found = read_record(f"{tree}/f7777")
    assert found is not None
    assert found.mode == stat.S_IFREG | 0o7777
    assert read_record(f"{tree}/d7777") == Meta(stat.S_IFDIR | 0o7777)


def test_a_forged_record_is_not_taken(tmp_path: object) -> None:
    layer = base(member(b"f", b"x", mode=0o600, uid=5, pax=FORGED))
    for mode in XattrMode:
        tree = unpacked(written(tmp_path, layer), f"{tmp_path}/tree-{mode}", xattrs=mode)
        assert read_record(f"{tree}/f") == Meta(stat.S_IFREG | 0o600, uid=5)


def test_staging_is_not_to_be_met(repo: Repository, tmp_path: object) -> None:
    """An archive cannot name the directory that contents wait in: its name is drawn by lot."""
    layer = base(directory(b".cfs-unpack-0"), member(b".cfs-unpack-0/1", DATA))
    tree = unpacked(written(tmp_path, layer), f"{tmp_path}/tree")
    assert os.listdir(f"{tree}/.cfs-unpack-0") == ["1"]


def test_where_there_is_something_already(tmp_path: object) -> None:
    os.mkdir(f"{tmp_path}/tree")
    with open(f"{tmp_path}/tree/mine", "w"):
        pass
    with pytest.raises(InputError, match="not empty"):
        unpack(written(tmp_path, base()), f"{tmp_path}/tree")
    assert os.listdir(f"{tmp_path}/tree") == ["mine"]


def test_what_is_no_file(tmp_path: object) -> None:
    os.mkfifo(f"{tmp_path}/fifo")
    with pytest.raises(InputError, match="no regular file"):
        unpack([f"{tmp_path}/fifo"], f"{tmp_path}/a")
    with pytest.raises(FileNotFoundError):
        unpack([f"{tmp_path}/nothing"], f"{tmp_path}/b")


def test_a_record_that_does_not_fit(tmp_path: object) -> None:
    layer = base(member(b"f", pax={b"SCHILY.xattr.user.a": bytes(60_000)}))
    with pytest.raises(LimitError, match="tree/f"):
        unpack(written(tmp_path, layer), f"{tmp_path}/tree", xattrs=XattrMode.ALL)


NAMES = st.sampled_from([b"a", b"b", b"..", b".", b"", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join).filter(lambda path: path != b"")
TARGETS = st.one_of(PATHS, st.sampled_from([b"/", b"..", b"../outside", b"/tmp"]))
PARTS = st.one_of(
    st.builds(lambda path: directory(path), PATHS),
    st.builds(lambda path: member(path, b"evil" * 30), PATHS),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(hardlink, PATHS, TARGETS),
    st.builds(whiteout, PATHS),
    st.builds(opaque, PATHS),
)


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PARTS, max_size=8))
def test_nothing_ever_appears_outside(
    parts: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("unpack"))
    os.mkdir(f"{path}/outside")
    layer = b"".join(parts) + END
    tree = unpack_or_error(written(path, layer), f"{path}/tree")
    assert sorted(os.listdir(path)) == ["layer-0.tar", "outside", "tree"]
    assert os.listdir(f"{path}/outside") == []
    if isinstance(tree, InputError):
        assert os.listdir(f"{path}/tree") == []


def unpacked(files: list[str], path: str, xattrs: XattrMode = XattrMode.OCI) -> str:
    unpack(files, path, xattrs=xattrs)
    return path


def unpack_or_error(files: list[str], path: str) -> str | InputError:
    try:
        return unpacked(files, path)
    except InputError as error:
        return error
