"""Reading a repository beside others that store: what they do is no damage, at whatever moment.

The other acts once, before the operation reads a certain directory or link; each takes its turn.
Objects do not count: what is behind a digest does not change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cfsrepo.formats.splitstream import OCI_MANIFEST, SplitStreamWriter
from cfsrepo.images import names
from cfsrepo.images.imageinfo import image_info
from cfsrepo.store.repository import Repository
from cfsrepo.system import mounttable
from cfsrepo.upkeep import du, fsck, inuse
from cfsrepo.upkeep.clone import clone
from cfsrepo.upkeep.findings import Checked
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.repair import repair
from tests.store.repository_helpers import add_files, make_image_file
from tests.upkeep.damage import content_digest, flip, path_of

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000

_CALLS = ("listdir", "scandir", "readlink")

Act = Callable[[Repository], None]


class Interleaving:
    """Counts the readings of this process, and has `act` happen before number `turn`."""

    def __init__(self, act: Callable[[], None], turn: int) -> None:
        self.act = act
        self.turn = turn
        self.calls = 0
        self.pid = os.getpid()

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() == self.pid and not str(args[0]).startswith("/proc"):
                self.calls += 1
                if self.calls == self.turn:
                    self.act()
            return real(*args, **kwargs)

        return call


@contextmanager
def interleaved(act: Callable[[], None], turn: int) -> Iterator[Interleaving]:
    found = Interleaving(act, turn)
    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, found.wrap(getattr(os, name)))
        yield found


def at_each_moment(
    tmp_path: Path, prepare: Act, act: Act, operation: Callable[[Repository], object]
) -> Iterator[tuple[Repository, object]]:
    """Each time a new repository: what `operation` says when `act` happens at that moment."""
    turn = 0
    while True:
        turn += 1
        with (
            Repository.init(str(tmp_path / str(turn))) as repo,
            Repository.open(repo.path) as other,
        ):
            prepare(other)
            with interleaved(lambda other=other: act(other), turn) as found:  # type: ignore[misc]
                said = operation(repo)
            if found.calls < turn:
                assert turn > 10, "it reads something"
                return
            yield repo, said


@pytest.fixture(autouse=True)
def no_search_for_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through all processes each time is what the time would go to."""
    monkeypatch.setattr(inuse, "serving_processes", lambda repository: [])
    monkeypatch.setattr(mounttable, "read_all", lambda: ([], True))


# --- what others do ------------------------------------------------------------------------------


def prepare(repo: Repository) -> None:
    add_files(repo, "one", {"a": A, "b": B})
    repo.add_image(make_image_file({"a": A}, repo), "alone")


def pull(repo: Repository) -> None:
    add_files(repo, "late", {"b": B, "c": C})


def pull_again(repo: Repository) -> None:
    """As cfsctl does: a new manifest stream that says the same in another order."""
    content_id = repo.tags()["one"]
    stream = repo.open_stream(content_id, OCI_MANIFEST)
    writer = SplitStreamWriter(repo.algorithm, OCI_MANIFEST)
    for name, digest in reversed(stream.named_refs.items()):
        writer.named_ref(name, digest)
    (document,) = stream.object_refs
    writer.external(document, repo.objects.size(document) or 0)
    repo.publish({content_id: repo.objects.put(writer.finish())})


def rename(repo: Repository) -> None:
    repo.tag("other", repo.tags()["one"])
    repo.untag("one")
    repo.untag("alone")


def name_image(repo: Repository) -> None:
    repo.add_image(make_image_file({"c": C}, repo), "some/name")


ACTS = (pull, pull_again, rename, name_image)


# --- what reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ACTS)
def test_a_check_finds_nothing(tmp_path: Path, act: Act) -> None:
    def check(repo: Repository) -> Checked:
        return fsck.check(repo, workers=1)

    for _, said in at_each_moment(tmp_path, prepare, act, check):
        assert isinstance(said, Checked)
        assert said.problems == []


@pytest.mark.parametrize("act", [pull, rename])
def test_usage_adds_up(tmp_path: Path, act: Act) -> None:
    for _, said in at_each_moment(tmp_path, prepare, act, du.usage):
        assert isinstance(said, du.Usage)
        assert said.disk == said.unique + said.shared + said.other + said.garbage
        assert all(found.disk for found in said.images)
        assert sum(found.unique for found in said.images) == said.unique


@pytest.mark.parametrize("act", ACTS)
def test_images_are_whole(tmp_path: Path, act: Act) -> None:
    def survey(repo: Repository) -> list[names.DamagedName]:
        found, damaged = names.survey(repo)
        for image in found:
            image_info(repo, image)
        return damaged

    for _, damaged in at_each_moment(tmp_path, prepare, act, survey):
        assert damaged == []


@pytest.mark.parametrize("act", [pull, pull_again, name_image])
def test_a_name_is_found(tmp_path: Path, act: Act) -> None:
    def resolve(repo: Repository) -> tuple[names.ImageName, names.ImageName]:
        one = names.resolve(repo, "one")
        return one, names.resolve(repo, one.image_id[:12])

    for _, said in at_each_moment(tmp_path, prepare, act, resolve):
        assert isinstance(said, tuple)
        assert said[0].image_id == said[1].image_id


@pytest.mark.parametrize("act", ACTS)
def test_a_clone_is_sound(tmp_path: Path, act: Act) -> None:
    number = iter(range(10_000))

    def copy(repo: Repository) -> str:
        path = str(tmp_path / f"copy{next(number)}")
        with Repository.init(path) as target:
            clone(repo, target)
        return path

    for _, path in at_each_moment(tmp_path, prepare, act, copy):
        with Repository.open(str(path)) as target:
            assert fsck.check(target, workers=1, metadata_only=True).clean


@pytest.mark.parametrize("act", [pull, pull_again, name_image])
def test_a_dry_run_finds_no_garbage(tmp_path: Path, act: Act) -> None:
    for _, said in at_each_moment(tmp_path, prepare, act, lambda repo: collect(repo, dry_run=True)):
        garbage = 1 if act is pull_again else 0  # the manifest's stream as it was
        assert said.objects <= garbage  # type: ignore[attr-defined]


def test_damage_that_somebody_repairs_meanwhile(tmp_path: Path) -> None:
    """It is told or not, as it was found; and what is told can be repaired."""

    def damaged(repo: Repository) -> None:
        prepare(repo)
        flip(repo, content_digest(repo, A))

    def mend(repo: Repository) -> None:
        path_of(repo, content_digest(repo, A)).unlink()
        repo.objects.put(A)

    told = set()
    for repo, said in at_each_moment(
        tmp_path, damaged, mend, lambda repo: fsck.check(repo, workers=1)
    ):
        assert isinstance(said, Checked)
        told.add(said.clean)
        assert repair(repo, said).left == []
        assert fsck.check(repo, workers=1).clean
    assert told == {True, False}
