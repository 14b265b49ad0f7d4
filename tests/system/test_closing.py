"""The base of context managers that end with `close()`."""

from __future__ import annotations

import pytest

from cfsrepo.system.closing import Closing


class Resource(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_block_ends_with_close() -> None:
    with Resource() as resource:
        assert not resource.closed
    assert resource.closed == 1


def test_an_error_goes_on_after_close() -> None:
    resource = Resource()
    with pytest.raises(ValueError, match="why"), resource:
        raise ValueError("why")
    assert resource.closed == 1


def test_who_cannot_be_closed_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Closing()  # type: ignore[abstract]
