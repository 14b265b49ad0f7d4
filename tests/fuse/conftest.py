"""Fixtures of real mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsfuse.options import Engine
from tests.conftest import User
from tests.fuse.fuse_helpers import sample
from tests.fuse.mounting import Mounted, wait_for_end


@pytest.fixture(params=list(Engine), ids=str)
def unmounted(request: pytest.FixtureRequest, fuse: User, tmp_path: Path) -> Iterator[Mounted]:
    path = Path(fuse.home, "sample")
    path.mkdir(mode=0o755)
    mounted = Mounted(fuse, sample(path), request.param)
    yield mounted
    for row in mounted.mounts():
        mounted.umount("--lazy", check=False)
        if row.get("pid"):
            wait_for_end(row["pid"])


@pytest.fixture
def mounted(unmounted: Mounted) -> Mounted:
    unmounted.mount()
    return unmounted
