"""Edited trees as OCI images: a layer with the difference, and nothing but that."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.errors import InputError, RepositoryError, UsageError
from cfsrepo.formats.splitstream import Digest, SplitStream
from cfsrepo.formats.tree import Inode, directory, walk
from cfsrepo.images import names
from cfsrepo.images.imagetree import load_image
from cfsrepo.oci.imagecommit import commit_oci
from cfsrepo.oci.importer import pull
from cfsrepo.oci.layers import read_layer
from cfsrepo.oci.merge import Merger, XattrMode
from cfsrepo.oci.newlayer import store_difference
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.commit import commit
from cfsrepo.worktree.recordedit import Changes, change_record
from tests.conftest import Peer
from tests.oci.oci_builder import CHAR, LayoutBuilder, archive, base, hardlink, member, symlink
from tests.oci.oci_builder import directory as tar_directory
from tests.worktree.worktree_helpers import checked_out

DATA = bytes(range(256)) * 30


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(
        base(
            tar_directory(b"etc", mode=0o750, mtime=5),
            member(b"etc/config", DATA, mtime=6, uid=3),
            member(b"etc/small", b"small", mtime=7),
            tar_directory(b"etc/gone"),
            member(b"etc/gone/x", b"x"),
            member(b"one", DATA[:100]),
            hardlink(b"two", b"one"),
            symlink(b"link", b"one"),
            member(b"null", kind=CHAR, device=(1, 3)),
        ),
        archive(member(b"etc/second", b"layer")),
    )
    with Repository.init(f"{tmp_path}/repo") as repository:
        pull(repository, layout.source(), "base")
        yield repository


@pytest.fixture
def tree(repo: Repository, tmp_path: object) -> str:
    return checked_out(repo, "base", f"{tmp_path}/tree")


def document(repo: Repository, content_id: str) -> Any:
    (part,) = repo.open_stream(content_id).chunks()
    return json.loads(repo.objects.read(part) if isinstance(part, Digest) else part)


def manifest_of(repo: Repository, name: str) -> Any:
    return document(repo, repo.tags()[name])


def last_layer(repo: Repository, name: str) -> list[bytes]:
    diff_id = manifest_of(repo, name)["layers"][-1]["digest"]
    stream = repo.open_stream(f"oci-layer-{diff_id}")
    return [item.path for item, _ in read_layer(stream, repo.objects)]


def edit(path: str, data: bytes = b"edited") -> None:
    with open(path, "wb") as file:
        file.write(data)


EDITS: dict[str, tuple[Callable[[str], object], list[bytes]]] = {
    "content": (lambda tree: edit(f"{tree}/etc/config"), [b"etc", b"etc/config"]),
    "metadata": (
        lambda tree: change_record(f"{tree}/etc/small", Changes(uid=9)),
        [b"etc", b"etc/small"],
    ),
    "new file": (lambda tree: edit(f"{tree}/etc/new"), [b"etc", b"etc/new"]),
    "removed file": (lambda tree: os.unlink(f"{tree}/etc/small"), [b"etc", b"etc/.wh.small"]),
    "removed directory": (
        lambda tree: shutil.rmtree(f"{tree}/etc/gone"),
        [b"etc", b"etc/.wh.gone"],
    ),
    "directory to file": (
        lambda tree: (shutil.rmtree(f"{tree}/etc/gone"), edit(f"{tree}/etc/gone")),
        [b"etc", b"etc/gone"],
    ),
    "file to directory": (
        lambda tree: (os.unlink(f"{tree}/one"), os.mkdir(f"{tree}/one"), edit(f"{tree}/one/x")),
        [b"one", b"one/x", b"two"],
    ),
    "one name of two removed": (lambda tree: os.unlink(f"{tree}/two"), [b"one", b".wh.two"]),
    "a name more": (
        lambda tree: os.link(f"{tree}/one", f"{tree}/etc/three"),
        [
            b"etc",
            b"etc/three",
            b"one",
            b"two",
        ],
    ),
    "another target": (
        lambda tree: (os.unlink(f"{tree}/link"), os.symlink("two", f"{tree}/link")),
        [b"link"],
    ),
    "another device": (
        lambda tree: change_record(f"{tree}/null", Changes(rdev=os.makedev(1, 5))),
        [b"null"],
    ),
    "setuid and capability": (
        lambda tree: change_record(
            f"{tree}/etc/config", Changes(mode=0o4755, xattrs={b"security.capability": bytes(20)})
        ),
        [b"etc", b"etc/config"],
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_edits(case: str, repo: Repository, tree: str) -> None:
    change, expected = EDITS[case]
    before = os.stat(tree)
    change(tree)
    os.utime(tree, ns=(before.st_atime_ns, before.st_mtime_ns))
    made = commit_oci(repo, tree, "new", base="base")
    assert last_layer(repo, "new") == expected
    assert names.resolve(repo, "new").image_id == made.image_id
    # The same tree without OCI is the same but for `/`, which takes after /usr in an OCI image.
    plain = commit(repo, tree, "plain", base="base")
    assert plain.image_id == made.image_id


def test_the_documents(repo: Repository, tree: str) -> None:
    edit(f"{tree}/etc/small")
    os.utime(f"{tree}/etc/small", ns=(0, 1_700_000_000_000_000_000))
    os.utime(f"{tree}/etc", ns=(0, 0))
    commit_oci(repo, tree, "new", base="base")
    old, new = manifest_of(repo, "base"), manifest_of(repo, "new")
    assert new["layers"][:-1] == old["layers"]
    assert new["annotations"]["org.opencontainers.image.base.digest"] == (
        repo.tags()["base"].removeprefix("oci-manifest-")
    )
    config = document(repo, "oci-config-" + new["config"]["digest"])
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert config["history"][-1] == {"created": config["created"], "created_by": "cfs commit"}
    assert config["rootfs"]["diff_ids"][-1] == new["layers"][-1]["digest"]
    # Committed once more it is the same to the last digest.
    commit_oci(repo, tree, "again", base="base")
    assert repo.tags()["again"] == repo.tags()["new"]


def test_untouched_is_the_base(repo: Repository, tree: str) -> None:
    made = commit_oci(repo, tree, "same", base="base")
    assert repo.tags()["same"] == repo.tags()["base"]
    assert made.image_id == names.resolve(repo, "base").image_id


def test_without_a_base(repo: Repository, tree: str) -> None:
    made = commit_oci(repo, tree, "alone")
    assert made.image_id == names.resolve(repo, "base").image_id
    assert len(manifest_of(repo, "alone")["layers"]) == 1


def test_what_cannot_be(repo: Repository, tree: str) -> None:
    edit(f"{tree}/etc/small")
    commit(repo, tree, "no-oci")
    edit(f"{tree}/etc/small", b"once more")
    with pytest.raises(RepositoryError, match="no OCI image"):
        commit_oci(repo, tree, "new", base="no-oci")
    with pytest.raises(UsageError):
        commit_oci(repo, tree, "@new", base="base")
    edit(f"{tree}/etc/.wh.x")
    with pytest.raises(InputError, match=r"\.wh\."):
        commit_oci(repo, tree, "new", base="base")
    os.unlink(f"{tree}/etc/.wh.x")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tree, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    with pytest.raises(InputError, match="socket"):
        commit_oci(repo, tree, "new", base="base")
    assert set(repo.tags()) == {"base"}


@pytest.mark.interop
def test_cfsctl_takes_it(repo: Repository, tree: str, peer: Peer) -> None:
    edit(f"{tree}/etc/config", DATA[::-1])
    os.unlink(f"{tree}/etc/small")
    made = commit_oci(repo, tree, "new", base="base")

    def cfsctl(*words: str) -> str:
        command = [peer("cfsctl"), "--repo", repo.path, "oci", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert cfsctl("compute-id", "new").strip() == made.image_id
    cfsctl("fsck")


# -- any two trees --------------------------------------------------------------------------------

NAMES = st.sampled_from([b"a", b"b", b"c"])


@st.composite
def trees(draw: st.DrawFn) -> Inode:
    root = directory()
    directories = [root]
    leaves: list[Inode] = []
    for _ in range(draw(st.integers(0, 10))):
        parent = draw(st.sampled_from(directories))
        assert parent.entries is not None
        name = draw(NAMES)
        if name in parent.entries:
            continue
        kind = draw(st.integers(0, 4))
        uid = draw(st.integers(0, 1))
        if kind == 0:
            inode = directory()
            inode.uid = uid
            directories.append(inode)
        elif kind == 1 and leaves:
            inode = draw(st.sampled_from(leaves))
        elif kind == 2:
            inode = Inode(stat.S_IFLNK | 0o777, payload=b"x" * (uid + 1), size=uid + 1)
            leaves.append(inode)
        else:
            data = b"x" * draw(st.integers(0, 2))
            inode = Inode(stat.S_IFREG | 0o644, uid=uid, size=len(data), content=data or None)
            leaves.append(inode)
        parent.entries[name] = inode
    names: dict[int, int] = {}
    for _, inode in walk(root):
        names[id(inode)] = names.get(id(inode), 0) + 1
    for _, inode in walk(root):
        inode.nlink = names[id(inode)]
    return root


def shape(root: Inode) -> list[tuple[Any, ...]]:
    """All that a tree says, to be compared."""
    first: dict[int, bytes] = {}
    return [
        (
            path,
            first.setdefault(id(inode), path) if inode.entries is None else path,
            inode.mode,
            inode.uid,
            inode.content,
            inode.payload,
        )
        for path, inode in walk(root)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    with Repository.init(str(tmp_path_factory.mktemp("store") / "repo")) as repository:
        yield repository


@settings(max_examples=500, deadline=None)
@given(old=trees(), new=trees())
def test_the_difference_makes_one_of_the_other(old: Inode, new: Inode, store: Repository) -> None:
    merger = Merger(XattrMode.ALL)
    for before, after in ((directory(), old), (old, new)):
        layer = store_difference(before, after, store.objects)
        stream = SplitStream.parse(store.objects.read(layer.stream))
        merger.add_layer(read_layer(stream, store.objects))
    assert shape(merger.finish())[1:] == shape(new)[1:]


def test_large_contents(repo: Repository, tree: str) -> None:
    edit(f"{tree}/big", DATA * 500)
    made = commit_oci(repo, tree, "new", base="base")
    found = dict(walk(load_image(repo, "new")))[b"/big"]
    assert found.size == len(DATA) * 500
    assert made.image_id == names.resolve(repo, "new").image_id
