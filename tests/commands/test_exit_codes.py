"""Exit codes: one table, in code and manual, and a way to meet each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsrepo import errors
from cfsrepo.errors import EXIT_CODES, CfsError
from cfsrepo.store import kernelverity
from cfsrepo.store.repository import Repository
from cfstools import cli
from cfstools.commands import images


def _all(base: type[CfsError]) -> Iterator[type[CfsError]]:
    for sub in base.__subclasses__():
        yield sub
        yield from _all(sub)


def test_the_table_has_what_errors_have() -> None:
    used = {error.exit_code for error in _all(CfsError) if error.__module__.startswith("cfsrepo")}
    others = {errors.EXIT_OK, errors.EXIT_FOUND, errors.EXIT_DEFECT, errors.EXIT_INTERRUPTED}
    assert used | others == EXIT_CODES.keys()


@pytest.fixture
def repo(tmp_path: Path) -> str:
    path = str(tmp_path / "repo")
    Repository.init(path).close()
    return path


@pytest.mark.parametrize(
    ("code", "argv"),
    [
        (0, ["images"]),
        (1, ["diff", "-q", "./full/", "./empty/"]),
        (2, ["images", "--no-such-option"]),
        (3, ["ls", "nosuch"]),
        (4, ["import-dump", "full/file", "name"]),
        (6, ["import-dump", "full", "name"]),
        (7, ["umount", "full"]),
        (8, ["verity", "enable"]),
    ],
)
def test_a_way_to_meet_each(
    repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, argv: list[str]
) -> None:
    monkeypatch.setattr(kernelverity, "enable", lambda fd, algorithm: False)
    monkeypatch.chdir(tmp_path)
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "file").write_text("no dump\n")
    assert cli.main(["--repo", repo, *argv]) == code


def test_a_damaged_repository(repo: str) -> None:
    Path(repo, "meta.json").write_text("?")
    assert cli.main(["--repo", repo, "images"]) == 5


@pytest.mark.parametrize(("raised", "code"), [(KeyError("x"), 70), (KeyboardInterrupt(), 130)])
def test_defects_and_interrupts(
    repo: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
) -> None:
    def run(args: object) -> int:
        raise raised

    monkeypatch.setattr(images, "run", run)
    assert cli.main(["--repo", repo, "images"]) == code
    assert capsys.readouterr().err.count("\n") == 1
    cli.main(["--repo", repo, "--debug", "images"])
    assert ("Traceback" in capsys.readouterr().err) == (code == 70)
