"""The conformance cases of composefs: each dump gives exactly the image that composefs gives.

`golden/NAME.dump[.gz]` has the image's sha256 in `.sha256`, the one version it is made in (else
the default range) in `.version`. `should-fail-*` must be refused.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
from pathlib import Path

import pytest

from cfsrepo.errors import InputError
from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.tree import Inode

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.name.removesuffix(".sha256") for path in GOLDEN.glob("*.sha256"))
REFUSED = sorted(path.name for path in GOLDEN.glob("should-fail-*.dump"))


def load(name: str) -> Inode:
    data = (GOLDEN / name).read_bytes()
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    return read_dump(io.BytesIO(data), name)


def versions(name: str) -> tuple[int, int]:
    path = GOLDEN / f"{name}.version"
    if not path.exists():
        return 0, 1
    version = int(path.read_text())
    return version, version


def image_of(root: Inode, min_version: int, max_version: int) -> bytes:
    parts: list[bytes] = []
    write_image(root, parts.append, min_version=min_version, max_version=max_version)
    return b"".join(parts)


def test_the_cases_are_there() -> None:
    assert len(CASES) >= 7
    assert len(REFUSED) >= 7


@pytest.mark.parametrize("name", CASES)
def test_image_is_the_known_one(name: str) -> None:
    image = image_of(load(name), *versions(name))
    expected = (GOLDEN / f"{name}.sha256").read_text().strip()
    assert hashlib.sha256(image).hexdigest() == expected


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_file_line_and_reason(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert re.match(rf"{re.escape(name)}:2: \S+", str(caught.value))
