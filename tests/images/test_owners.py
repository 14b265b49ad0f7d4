"""Which owner is shown for which."""

from __future__ import annotations

import pytest

from cfsrepo.errors import UsageError
from cfsrepo.images.owners import OVERFLOW_ID, Owners, Range, parse_idmap


def test_words_of_an_idmap() -> None:
    uids, gids = parse_idmap("0:100000:65536, u:70000:5:1 g:9:8:7")
    assert uids == (Range(0, 100000, 65536), Range(70000, 5, 1))
    assert gids == (Range(0, 100000, 65536), Range(9, 8, 7))


@pytest.mark.parametrize(
    "text",
    ["", " ", "1:2", "1:2:3:4", "a:1:2:3", "0:0:0", "-1:0:1", "0:4294967295:2", "u:x:1:1", "u:"],
)
def test_what_is_no_idmap(text: str) -> None:
    with pytest.raises(UsageError, match="--idmap"):
        parse_idmap(text)


def test_ranges_end_where_they_say() -> None:
    owners = Owners(uid_ranges=(Range(10, 1000, 5), Range(20, 20, 1)))
    assert [owners.shown(uid, 7) for uid in (9, 10, 14, 15, 20)] == [
        (OVERFLOW_ID, 7),
        (1000, 7),
        (1004, 7),
        (OVERFLOW_ID, 7),
        (20, 7),
    ]
    assert not owners.unchanged
    assert Owners().unchanged
