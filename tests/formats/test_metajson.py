"""meta.json: cfsctl's bytes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cfsrepo.errors import RepositoryError
from cfsrepo.formats import metajson
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.formats.metajson import Features, RepositoryMeta

# As `cfsctl init --algorithm fsverity-sha256-12` of 0.9.4 writes it.
CFSCTL = b"""{
  "version": 1,
  "algorithm": "fsverity-sha256-12",
  "features": {
    "compatible": [],
    "read-only-compatible": [
      "v1_erofs"
    ],
    "incompatible": []
  },
  "erofs_formats": {
    "default": 1
  }
}
"""


def altered(**changes: Any) -> bytes:
    value = json.loads(CFSCTL)
    for key, change in changes.items():
        if change is None:
            del value[key]
        else:
            value[key] = change
    return json.dumps(value).encode()


def test_writes_what_cfsctl_writes() -> None:
    assert RepositoryMeta().to_json() == CFSCTL
    assert metajson.parse(CFSCTL, "meta.json") == RepositoryMeta()


@pytest.mark.parametrize(
    ("meta", "versions"),
    [
        (RepositoryMeta(Algorithm.SHA512, features=Features(), erofs_default=2), (2, ())),
        (RepositoryMeta(erofs_extra=(2,)), (1, (2,))),
        (RepositoryMeta(features=Features(("a",)), erofs_default=0), (0, ())),
    ],
)
def test_round_trip(meta: RepositoryMeta, versions: tuple[int, tuple[int, ...]]) -> None:
    parsed = metajson.parse(meta.to_json(), "meta.json")
    assert parsed == meta
    assert (parsed.erofs_default, parsed.erofs_extra) == versions


def test_old_repositories_say_their_image_version_by_the_flag() -> None:
    with_flag = metajson.parse(altered(erofs_formats=None), "meta.json")
    assert with_flag.erofs_default == 1
    without = metajson.parse(altered(erofs_formats=None, features=None), "meta.json")
    assert without.erofs_default == 2


def test_unknown_fields_and_compatible_features_are_ignored() -> None:
    features = {"compatible": ["new"], "future": []}
    parsed = metajson.parse(altered(features=features, more=[1]), "meta.json")
    assert parsed.features.compatible == ("new",)
    assert parsed.read_only_reasons == []


def test_unknown_read_only_features_are_told() -> None:
    features = {"read-only-compatible": ["v1_erofs", "new_thing"]}
    assert metajson.parse(altered(features=features), "m").read_only_reasons == ["new_thing"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "no JSON"),
        (altered(version=2), "repository version 2, this program knows 1"),
        (altered(version=None), "no version"),
        (altered(version="1"), "no version"),
        (altered(version=True), "no version"),
        (altered(algorithm="fsverity-sha256-16"), "'fsverity-sha256-16' is not supported"),
        (altered(algorithm=None), "is not supported"),
        (altered(features={"incompatible": ["x", "y"]}), "features unknown here: x, y"),
        (altered(features=[]), "features is not an object"),
        (altered(features={"compatible": "x"}), "compatible is not a list"),
        (altered(features={"incompatible": [1]}), "incompatible is not a list"),
        (altered(erofs_formats=1), "erofs_formats is not an object"),
        (altered(erofs_formats={}), "names a version"),
        (altered(erofs_formats={"default": 3}), "names a version"),
        (altered(erofs_formats={"default": True}), "names a version"),
        (altered(erofs_formats={"default": 1, "extra": [[]]}), "names a version"),
        (altered(erofs_formats={"default": 1, "extra": 2}), "erofs_formats is not an object"),
    ],
)
def test_refusals(data: bytes, message: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        metajson.parse(data, "/r/meta.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("/r/meta.json: ")
