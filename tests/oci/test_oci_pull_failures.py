"""Pulls on a machine that fails: a full disk, a killed process, an interrupt."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cfsrepo.errors import CfsError
from cfsrepo.oci import layerjobs
from cfsrepo.oci.importer import pull
from cfsrepo.store.repository import Repository
from tests.oci.oci_builder import (
    LayoutBuilder,
    archive,
    member,
)
from tests.oci.pull_helpers import BIG, GOOD, visible


@contextlib.contextmanager
def small_disk(path: str, size: str) -> Iterator[str]:
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("count", [1, 2])
def test_full_disk(count: int, builder: LayoutBuilder, tmp_path: object) -> None:
    layers = [BIG, archive(*(member(b"b%d" % n, os.urandom(40_000)) for n in range(100)))][:count]
    builder.image(*layers)
    with small_disk(f"{tmp_path}/disk", "2m") as disk:
        with Repository.init(f"{disk}/repo") as repo:
            before = visible(repo)
            with pytest.raises(OSError, match="No space left") as caught:
                pull(repo, builder.source(), "name")
            assert caught.value.errno == errno.ENOSPC
            assert visible(repo) == before
        command = [sys.executable, "-m", "cfstools", "--repo", f"{disk}/repo", "pull"]
        done = subprocess.run(
            [*command, builder.source(), "name"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 6
        line = done.stderr.splitlines()[-1]
        assert line.startswith("cfs: ")
        assert "No space left on device (free space" in line


def test_a_worker_that_dies(
    repo: Repository, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.image(GOOD, BIG)
    monkeypatch.setattr(layerjobs, "import_layer", lambda *args: os._exit(9))
    before = visible(repo)
    with pytest.raises(CfsError, match="ended with code 9"):
        pull(repo, builder.source(), "name")
    assert visible(repo) == before


def test_an_interrupt_ends_the_workers(
    repo: Repository, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting:
        def advance(self, task: str, amount: int) -> None:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args: None

    builder.image(GOOD, BIG)
    interrupting: Any = Interrupting()
    before = visible(repo)
    with pytest.raises(KeyboardInterrupt):
        pull(repo, builder.source(), "name", progress=interrupting)
    assert visible(repo) == before
    # All children were waited for.
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
