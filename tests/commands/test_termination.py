"""SIGTERM ends a pull as Ctrl-C does."""

from __future__ import annotations

import os
import signal

import pytest

from cfsrepo.oci.importer import pull
from cfsrepo.store.repository import Repository
from cfstools.termination import terminated_as_interrupted
from tests.oci.oci_builder import LayoutBuilder, base, member


@pytest.mark.parametrize("layers", [1, 2])
def test_sigterm_leaves_nothing_and_the_next_pull_goes_on(layers: int, tmp_path: object) -> None:
    class Terminating:
        """Progress that is the moment at which the signal comes."""

        def advance(self, task: str, amount: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        def start(self, task: str, total: int | None, unit: str = "B") -> None: ...
        def finish(self, task: str, note: str = "") -> None: ...
        def message(self, text: str) -> None: ...

    builder = LayoutBuilder(f"{tmp_path}/layout")
    builder.image(*(base(member(b"%d" % at, os.urandom(3 << 20))) for at in range(layers)))
    before = signal.getsignal(signal.SIGTERM)
    with Repository.init(f"{tmp_path}/repo") as repo:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            pull(repo, builder.source(), "name", progress=Terminating())
        assert signal.getsignal(signal.SIGTERM) is before
        assert repo.tags() == {}
        assert repo.images() == {}
        names = os.listdir(f"{repo.path}/objects") if os.path.isdir(f"{repo.path}/objects") else []
        assert all(len(name) == 2 for name in names)
        assert pull(repo, builder.source(), "name").new_layers == layers
