"""One repository, two programs: what cfsctl makes works here, what is made here works there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfsrepo.formats.erofs.imagewalk import ImageWalk
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.metajson import RepositoryMeta
from cfsrepo.images import imageinfo, names, neededobjects
from cfsrepo.oci.importer import pull
from cfsrepo.store import ocistreams
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.upkeep import fsck
from cfsrepo.upkeep.clone import clone
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.inuse import serving_processes
from cfsrepo.upkeep.repair import repair
from tests.conftest import Peer, User
from tests.oci.oci_builder import LayoutBuilder, base, directory, hardlink, member, symlink
from tests.store.repository_helpers import add_files, make_image_file
from tests.waiting import wait_until

pytestmark = pytest.mark.interop

Cfsctl = Callable[..., str]

SHARED = base(
    directory(b"etc"),
    member(b"etc/a", b"a" * 5000),
    hardlink(b"etc/b", b"etc/a"),
    symlink(b"etc/c", b"a"),
    member(b"etc/small", b"inline"),
)
ONE = base(member(b"one", b"1" * 10_000), member(b"same", b"same" * 500))
TWO = base(member(b"two", b"2" * 300_000), member(b"same", b"same" * 500))


@pytest.fixture
def layout(tmp_path: Path) -> LayoutBuilder:
    builder = LayoutBuilder(str(tmp_path / "layout"))
    builder.image(SHARED, ONE, ref="one")
    builder.image(SHARED, TWO, ref="two", packing="zstd")
    return builder


@pytest.fixture
def cfsctl(peer: Peer, tmp_path: Path) -> Cfsctl:
    """Runs cfsctl on the repository `tmp_path/repo`; its output, or the test fails."""
    program = peer("cfsctl")

    def run(*arguments: str, repo: str = "repo", check: bool = True) -> str:
        command = [program, "--repo", str(tmp_path / repo), *arguments]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    return run


def check_there(cfsctl: Cfsctl, repo: str = "repo") -> None:
    """cfsctl finds nothing wrong."""
    assert json.loads(cfsctl("fsck", "--json", repo=repo))["ok"] is True
    report = json.loads(cfsctl("oci", "fsck", "--json", repo=repo))
    assert report.get("ok", True) is True, report


def check_here(repo: Repository) -> None:
    assert fsck.check(repo).problems == []


def garbage_there(cfsctl: Cfsctl, repo: str = "repo") -> tuple[int, int]:
    """(objects, bytes) that cfsctl would collect."""
    found = re.search(r"Objects: (\d+) removed \((\d+) bytes\)", cfsctl("gc", "-n", repo=repo))
    assert found is not None
    return int(found[1]), int(found[2])


def garbage_here(repo: Repository) -> tuple[int, int]:
    result = collect(repo, dry_run=True)
    return result.objects, result.size


@pytest.fixture(
    params=[
        (Algorithm.SHA256, 1),
        (Algorithm.SHA256, 2),
        (Algorithm.SHA512, 1),
        (Algorithm.SHA512, 2),
    ],
    ids=lambda param: f"{param[0].hash_name}-v{param[1]}",
)
def theirs(
    request: pytest.FixtureRequest, tmp_path: Path, cfsctl: Cfsctl, layout: LayoutBuilder
) -> Iterator[Repository]:
    """A repository that cfsctl made and pulled two images into."""
    algorithm, version = request.param
    options = ["--algorithm", str(algorithm), "--erofs-version", str(version)]
    cfsctl("init", "--insecure", *options)
    for ref in ("one", "two"):
        cfsctl("oci", "pull", layout.source(ref), f"reg.example/{ref}:1")
    with Repository.open(str(tmp_path / "repo")) as repo:
        yield repo


@pytest.fixture(params=list(Algorithm), ids=lambda algorithm: algorithm.hash_name)
def ours(
    request: pytest.FixtureRequest, tmp_path: Path, layout: LayoutBuilder
) -> Iterator[Repository]:
    """A repository made here, with the two images."""
    with Repository.init(str(tmp_path / "repo"), algorithm=request.param) as repo:
        for ref in ("one", "two"):
            pull(repo, layout.source(ref), f"reg.example/{ref}:1")
        yield repo


# --- made by cfsctl ------------------------------------------------------------------------------


def test_theirs_opens_and_lists(theirs: Repository, cfsctl: Cfsctl) -> None:
    check_here(theirs)
    listed = {image.name: image for image in names.list_images(theirs)}
    wanted = json.loads(cfsctl("oci", "images", "--json"))["images"]
    assert {name: image.manifest_digest for name, image in listed.items()} == {
        image["name"]: image["manifest_digest"] for image in wanted
    }
    assert set(listed) == {"reg.example/one:1", "reg.example/two:1"}
    for image in listed.values():
        info = imageinfo.image_info(theirs, image)
        assert info.platform == "linux/amd64"
        assert len(info.layers) == 2
        assert cfsctl("oci", "inspect", "--manifest", image.name).rstrip() == info.manifest.decode()


def test_theirs_shows_its_files(theirs: Repository) -> None:
    for name in ("one", "two"):
        image_id = names.resolve(theirs, f"reg.example/{name}:1").image_id
        with theirs.open_image(image_id) as data:
            image = ErofsImage(data, name)
            paths = {path for path, _, _ in ImageWalk(image).entries()}
            assert {b"/etc/a", b"/etc/b", b"/etc/c", b"/same", f"/{name}".encode()} <= paths
            needed = neededobjects.needed_objects(image, theirs.algorithm)
            assert {theirs.objects.size(digest) for digest in needed} == set(needed.values())


def test_theirs_is_pulled_into(theirs: Repository, cfsctl: Cfsctl, layout: LayoutBuilder) -> None:
    layout.image(SHARED, ONE, TWO, ref="three")
    before = theirs.streams()
    pull(theirs, layout.source("three"), "three")
    assert before.items() <= theirs.streams().items(), "layers that are there are used"
    check_here(theirs)
    check_there(cfsctl)
    assert "three" in cfsctl("oci", "images", "--json")


def test_theirs_pulled_again_changes_nothing(
    theirs: Repository, cfsctl: Cfsctl, layout: LayoutBuilder
) -> None:
    streams, images = theirs.streams(), theirs.images()
    image = pull(theirs, layout.source("one"), "again")
    assert (theirs.streams(), theirs.images()) == (streams, images)
    assert image.image_id == names.resolve(theirs, "reg.example/one:1").image_id
    check_there(cfsctl)


def test_what_is_pulled_into_theirs_mounts_there(
    as_root: None, theirs: Repository, cfsctl: Cfsctl, layout: LayoutBuilder, tmp_path: Path
) -> None:
    layout.image(SHARED, ONE, TWO, ref="three")
    image_id = pull(theirs, layout.source("three"), "three").image_id
    assert image_id in cfsctl("oci", "compute-id", "three")
    point = tmp_path / "mnt"
    point.mkdir()
    cfsctl("oci", "mount", "three", str(point))
    try:
        assert (point / "two").read_bytes() == b"2" * 300_000
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_theirs_is_collected_here(theirs: Repository, cfsctl: Cfsctl) -> None:
    # A pull there writes config and manifest twice, and leaves the first ones.
    assert garbage_here(theirs) == garbage_there(cfsctl)
    cfsctl("oci", "untag", "reg.example/two:1")
    found = garbage_here(theirs)
    assert found == garbage_there(cfsctl)
    assert found[1] > 300_000
    collect(theirs)
    assert garbage_there(cfsctl) == (0, 0)
    check_here(theirs)
    check_there(cfsctl)
    assert [image.name for image in names.list_images(theirs)] == ["reg.example/one:1"]


def test_names_in_both_directions(theirs: Repository, cfsctl: Cfsctl) -> None:
    digest = names.resolve(theirs, "reg.example/one:1").manifest_digest
    assert digest is not None
    tags = ["a/b/c:1", "100%", "%2F", "with space", "Zahl-\u00fc"]
    for tag in tags:
        cfsctl("oci", "tag", digest, f"{tag}-there")
        theirs.tag(f"{tag}-here", ocistreams.MANIFEST_PREFIX + digest)
    listed = {image["name"] for image in json.loads(cfsctl("oci", "images", "--json"))["images"]}
    assert listed == set(theirs.tags())
    assert {f"{tag}-{side}" for tag in tags for side in ("here", "there")} < listed
    for tag in tags:
        cfsctl("oci", "untag", f"{tag}-here")
        theirs.untag(f"{tag}-there")
    assert set(theirs.tags()) == {"reg.example/one:1", "reg.example/two:1"}


def test_both_find_the_same_damage(theirs: Repository, cfsctl: Cfsctl) -> None:
    files = [path for path in Path(theirs.objects.path).rglob("*") if path.is_file()]
    for number, path in enumerate(sorted(files)[::3]):
        if number % 2:
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
    report = cfsctl("fsck", "--json", check=False)
    there = set(re.findall(r"objects/[0-9a-f]{2}/[0-9a-f]+", report))
    there |= {
        f"objects/{name[:2]}/{name[2:]}"
        for name in re.findall(r"\b[0-9a-f]{64}(?:[0-9a-f]{64})?\b", report)
        if len(name) == 2 * theirs.algorithm.digest_size
        and not theirs.objects.has(bytes.fromhex(name))
    }
    here = {f"objects/{object_path(digest)}" for digest in fsck.check(theirs).bad_objects()}
    # Of a damaged stream cfsctl cannot say what is missing; here its digest decides first.
    damaged_there = {path for path in there if os.path.exists(f"{theirs.path}/{path}")}
    assert damaged_there <= here
    assert {path for path in here if not os.path.exists(f"{theirs.path}/{path}")} <= there | here


def test_theirs_is_repaired_from_the_layout(
    theirs: Repository, cfsctl: Cfsctl, layout: LayoutBuilder
) -> None:
    for prefix in theirs.objects.prefixes():
        for name in os.listdir(f"{theirs.objects.path}/{prefix}"):
            path = f"{theirs.objects.path}/{prefix}/{name}"
            os.truncate(path, os.path.getsize(path) // 2)
    result = repair(theirs, fsck.check(theirs), [f"oci:{layout.directory}"])
    needed = [problem for problem in result.left if problem.needs]
    assert needed == []
    check_here(theirs)
    check_there(cfsctl)


def test_theirs_is_cloned(theirs: Repository, cfsctl: Cfsctl, tmp_path: Path) -> None:
    with Repository.init(str(tmp_path / "copy"), algorithm=theirs.algorithm) as copy:
        clone(theirs, copy)
        check_here(copy)
        assert copy.tags() == theirs.tags()
    check_there(cfsctl, "copy")


def test_a_repository_of_two_image_versions(
    tmp_path: Path, cfsctl: Cfsctl, layout: LayoutBuilder
) -> None:
    meta = RepositoryMeta(erofs_extra=(2,))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "meta.json").write_bytes(meta.to_json())
    cfsctl("oci", "pull", layout.source("one"), "there")
    with Repository.open(str(tmp_path / "repo")) as repo:
        images = repo.images()
        assert len(images) == 2
        collect(repo)
        assert repo.images() == images
        pull(repo, layout.source("two"), "here")
        assert len(repo.images()) == 4
        assert garbage_here(repo) == garbage_there(cfsctl) == (0, 0)
        check_here(repo)
    check_there(cfsctl)


# --- made here -----------------------------------------------------------------------------------


def test_ours_is_sound_there(ours: Repository, cfsctl: Cfsctl, tmp_path: Path) -> None:
    check_there(cfsctl)
    images = json.loads(cfsctl("oci", "images", "--json"))["images"]
    assert {(image["name"], image["manifest_digest"]) for image in images} == {
        (image.name, image.manifest_digest) for image in names.list_images(ours)
    }
    for image in names.list_images(ours):
        assert image.image_id in cfsctl("oci", "compute-id", image.name)
        info = imageinfo.image_info(ours, image)
        assert cfsctl("oci", "inspect", "--config", image.name).rstrip() == info.config.decode()


def test_ours_is_initialised_again_there(ours: Repository, cfsctl: Cfsctl) -> None:
    said = cfsctl("init", "--insecure", "--algorithm", str(ours.algorithm))
    assert "already initialized" in said


def test_the_same_layers_and_images_in_both(
    ours: Repository, cfsctl: Cfsctl, layout: LayoutBuilder, tmp_path: Path
) -> None:
    cfsctl("init", "--insecure", "--algorithm", str(ours.algorithm), repo="other")
    for ref in ("one", "two"):
        cfsctl("oci", "pull", layout.source(ref), ref, repo="other")
    with Repository.open(str(tmp_path / "other")) as other:
        assert other.images() == ours.images()
        for content_id, digest in other.streams().items():
            if content_id.startswith(ocistreams.LAYER_PREFIX):
                assert ours.stream_id(content_id) == digest


def test_ours_is_pulled_into_there(ours: Repository, cfsctl: Cfsctl, layout: LayoutBuilder) -> None:
    layout.image(SHARED, ONE, TWO, ref="three")
    before = ours.streams()
    cfsctl("oci", "pull", layout.source("three"), "three")
    cfsctl("oci", "pull", layout.source("one"), "again")
    assert {k: v for k, v in before.items() if "layer" in k}.items() <= ours.streams().items()
    check_here(ours)
    check_there(cfsctl)
    assert (
        names.resolve(ours, "again").image_id == names.resolve(ours, "reg.example/one:1").image_id
    )
    collect(ours)
    check_there(cfsctl)


def test_ours_is_collected_there(ours: Repository, cfsctl: Cfsctl) -> None:
    assert garbage_there(cfsctl) == garbage_here(ours) == (0, 0)
    ours.untag("reg.example/two:1")
    found = garbage_here(ours)
    assert garbage_there(cfsctl) == found
    ours.release_lock()  # cfsctl waits for everybody to leave
    cfsctl("gc")
    assert garbage_here(ours) == (0, 0)
    check_here(ours)
    check_there(cfsctl)


def test_sparse_files_survive_a_collection_there(
    tmp_path: Path, cfsctl: Cfsctl, layout: LayoutBuilder
) -> None:
    """cfsctl cannot read such a layer; what it must keep it is told by the layer's stream."""
    pax = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", b"1000000"),
    )
    parts = b"2\n0\n512\n999000\n512\n".ljust(512, b"\0") + b"x" * 1024
    layout.image(base(member(b"GNUSparseFile.0/sparse", parts, pax=pax)), ref="sparse")
    with Repository.init(str(tmp_path / "repo")) as repo:
        pull(repo, layout.source("sparse"), "sparse")
        assert garbage_there(cfsctl) == garbage_here(repo) == (0, 0)
        repo.release_lock()
        cfsctl("gc")
        check_here(repo)


def test_names_of_image_files_in_both_directions(
    ours: Repository, cfsctl: Cfsctl, tmp_path: Path
) -> None:
    image_id = ours.add_image(make_image_file({"x": b"x" * 5000}, ours), "some/name")
    assert image_id[:12] in cfsctl("images")
    objects = cfsctl("image-objects", "refs/some/name").split()
    assert len(objects) == 1
    assert garbage_there(cfsctl) == garbage_here(ours) == (0, 0)
    (tmp_path / "tree" / "usr").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(b"y" * 5000)
    cfsctl("create-image", str(tmp_path / "tree"), "made/there")
    made = ours.image_refs()["made/there"]
    with ours.open_image(made) as data:
        assert ErofsImage(data).lookup_path(b"/file") is not None
    assert garbage_there(cfsctl) == garbage_here(ours) == (0, 0)
    check_here(ours)


def test_images_mounted_there_are_kept_here(
    as_root: None, tmp_path: Path, cfsctl: Cfsctl, layout: LayoutBuilder
) -> None:
    with Repository.init(str(tmp_path / "repo")) as repo:
        pull(repo, layout.source("one"), "one")
        image_id = names.resolve(repo, "one").image_id
        point = tmp_path / "mnt"
        point.mkdir()
        cfsctl("oci", "mount", "one", str(point))
        try:
            repo.untag("one")
            result = collect(repo)
            assert result.kept == {image_id: [f"mounted at {point}"]}
            assert (point / "one").read_bytes() == b"1" * 10_000
        finally:
            subprocess.run(["umount", str(point)], check=True)
        collect(repo)
        assert repo.images() == {}


def test_images_served_there_are_kept_here(fuse: User, peer: Peer, layout: LayoutBuilder) -> None:
    """A FUSE server of cfsctl, which holds no lock and whose mount does not name the image."""
    program = peer("cfsctl")
    repo_path, point = f"{fuse.home}/repo", f"{fuse.home}/mnt"
    with Repository.init(repo_path) as repo:
        image_id = pull(repo, layout.source("one"), "one").image_id
    os.mkdir(point)
    subprocess.run(["chown", "-R", f"{fuse.uid}:{fuse.gid}", fuse.home], check=True)
    command = [program, "--repo", repo_path, "mount", "--fuse", "yes", image_id, point]
    if fuse.run("test", "-x", program, check=False).returncode:
        pytest.skip("needs cfsctl where an unprivileged user can run it")
    with open(f"{fuse.home}/log", "wb") as log:
        subprocess.run(
            fuse.argv(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True
        )
    with Repository.open(repo_path) as repo:
        repo.untag("one")
        result = collect(repo)
        assert list(result.kept) == [image_id]
        assert result.kept[image_id][0].startswith("perhaps served by cfsctl")
        read = fuse.run("cat", f"{point}/one").stdout
        assert read == "1" * 10_000
        fuse.run("fusermount3", "-u", point)
        wait_until(lambda: not serving_processes(repo), "cfsctl's server ends")
        assert collect(repo).images == 1


def test_helper_images_are_sound_there(tmp_path: Path, cfsctl: Cfsctl) -> None:
    """The images that the other tests make by hand are what cfsctl takes for images."""
    with Repository.init(str(tmp_path / "repo")) as repo:
        add_files(repo, "one", {"a": b"a" * 5000, "dir/b": b"b" * 6000})
    assert json.loads(cfsctl("fsck", "--json"))["ok"] is True
