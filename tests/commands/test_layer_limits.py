"""The options --max-* of `cfs pull` and `cfs unpack`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cfsrepo.errors import UsageError
from cfsrepo.oci.limits import DEFAULT_LIMITS, Limits
from cfstools.layerlimits import limits_from
from cfstools.options import Arguments
from tests.oci.oci_builder import LayoutBuilder, base, member


def test_amounts() -> None:
    nothing = Arguments(max_size=None, max_metadata=None, max_entries=None)
    assert limits_from(nothing) == DEFAULT_LIMITS
    some = Arguments(max_size="20G", max_metadata="3MiB", max_entries="70000")
    assert limits_from(some) == Limits(size=20 << 30, metadata=3 << 20, entries=70_000)
    for text in ("", "G", "1.5G", "-1", "1 G", "1GB", "9" * 30):
        with pytest.raises(UsageError, match="no amount"):
            limits_from(Arguments(max_size=text, max_metadata=None, max_entries=None))


def test_the_help_tells_the_defaults() -> None:
    """They are written there by hand: the table of options imports nothing of the repository."""
    from cfstools.options.common import LIMITS

    amounts = [option.help.rpartition("default: ")[2].rstrip(")") for option in LIMITS]
    given = dict(zip(("max_size", "max_metadata", "max_entries"), amounts, strict=True))
    assert limits_from(Arguments(**given)) == DEFAULT_LIMITS


def test_a_limit_ends_a_command(tmp_path: object) -> None:
    builder = LayoutBuilder(f"{tmp_path}/layout")
    tar = base(member(b"f", b"x" * 5000))
    builder.image(tar)
    with open(f"{tmp_path}/layer.tar", "wb") as file:
        file.write(tar)

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cfstools", "--repo", f"{tmp_path}/repo", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert run("init")[0] == 0
    for words in (("pull", builder.source()), ("unpack", f"{tmp_path}/layer.tar", f"{tmp_path}/t")):
        code, errors = run(*words, "--max-size", "3K")
        assert code == 4
        assert "more than 3072 bytes when unpacked" in errors
        assert "--max-size" in errors
        assert run(*words, "--max-size", "1M")[0] == 0
