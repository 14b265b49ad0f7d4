"""Fixtures of tests that pull: a layout to fill, and a repository."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import LayoutBuilder


@pytest.fixture
def builder(tmp_path: object) -> LayoutBuilder:
    return LayoutBuilder(f"{tmp_path}/layout")


@pytest.fixture
def repo(tmp_path: object) -> Iterator[Repository]:
    with Repository.init(f"{tmp_path}/repo") as repository:
        yield repository
