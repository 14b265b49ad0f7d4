"""The edits that `tools/pyfuse3` makes in pyfuse3's source: read, applied, and refused."""

from __future__ import annotations

import importlib.util
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from cfsfuse import operations
from tests.conftest import CHECKOUT

pyfuse3 = pytest.importorskip("pyfuse3")

HEAD = "# sdist: thing-1.0.tar.gz\n# sha256: 00\n# version: 1.0+ours1\n"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    path = Path(CHECKOUT, "tools/pyfuse3/build.py")
    spec = importlib.util.spec_from_file_location("pyfuse3_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_lines_are_inserted_and_replaced(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1\n2\n3\n4\n5\n")
    text = HEAD + "\n= file\n5a\nend\n.\n3,4c\nthree\nand four\n\n.\n1c\none\n.\n0a\nfirst\n.\n"
    build.apply(build.parse(text), tmp_path)
    assert (tmp_path / "file").read_text() == "first\none\n2\nthree\nand four\n\n5\nend\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# sdist: x\n", "lacks sha256, version"),
        (HEAD + "1a\nx\n.\n", "no file is named"),
        (HEAD + "= file\n1a\nx\n", "has no end"),
        (HEAD + "= file\n1d\n", "not understood"),
        (HEAD + "= file\n1c\nx\n.\n2c\nx\n.\n", "not in front"),
    ],
)
def test_what_is_not_understood_is_refused(build: ModuleType, text: str, reason: str) -> None:
    with pytest.raises(build.BuildError, match=reason):
        build.parse(text)


def test_a_file_that_is_too_short_is_refused(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1\n")
    with pytest.raises(build.BuildError, match="no line 9"):
        build.apply(build.parse(HEAD + "= file\n9c\nx\n.\n"), tmp_path)


def test_another_source_is_refused(build: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(build.BuildError, match="has the sha256"):
        build.unpack(archive, "00" * 32, tmp_path)


def test_the_projects_edits(build: ModuleType) -> None:
    text = build.EDITS.read_text()
    assert "SPDX-License-Identifier: LGPL-2.1-or-later" in text
    edits = build.parse(text)
    assert edits.head["version"] == "3.5.0+stateless1"
    ours = [line for commands in edits.files.values() for edit in commands for line in edit.lines]
    assert len(ours) < 10


def test_the_engine_knows_which_library_it_has() -> None:
    assert ("+stateless" in pyfuse3.__version__) == operations.STATELESS
    assert pyfuse3.Operations().supports_dot_lookup
