"""The fuzzers' corpora, replayed without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.erofs.reader import ErofsImage
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus"
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_finding(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_each_target_starts_from_something_sound() -> None:
    with (CORPUS / "dump" / "everything").open("rb") as stream:
        read_dump(stream)
    ErofsImage((CORPUS / "image" / "everything").read_bytes())
