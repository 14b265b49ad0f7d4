"""What other tests trust: the unprivileged user, the look-up of peer programs, watched skips."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, User, lookup_peer


def test_the_user_has_no_privileges(user: User) -> None:
    status = user.run("cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["Uid"].split()[0] == str(user.uid) != "0"
    assert int(fields["CapEff"], 16) == 0


def test_the_user_finds_this_checkout(user: User) -> None:
    program = "import cfsfuse, cfsrepo, cfstools; print(cfstools.__file__)"
    found = user.run(sys.executable, "-c", program).stdout
    assert found.startswith(CHECKOUT)


def test_the_home_is_the_users(user: User) -> None:
    info = os.stat(user.home)
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (user.uid, 0o700)


def test_a_variable_names_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFS_TEST_FSCK_EROFS", "/bin/true")
    assert lookup_peer("fsck.erofs") == "/bin/true"


def test_a_wrong_variable_is_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFS_TEST_CFSCTL", "/nowhere/cfsctl")
    with pytest.raises(pytest.fail.Exception, match="cannot be run"):
        lookup_peer("cfsctl")


SKIPPING = """
import pytest

def test_passes(): pass

@pytest.mark.parametrize("value", [1, 2])
def test_is_skipped(value): pytest.skip("needs cfsctl: get it")
"""


@pytest.mark.parametrize(
    ("listed", "code", "said"),
    [
        ("# why\n\n*::test_is_skipped* | needs cfsctl*\n", 0, "2 skipped"),
        ("*::test_is_skipped?1? | *\n", 1, "::test_is_skipped[2] | needs cfsctl: get it"),
        ("*::test_is_skipped* | needs skopeo*\n", 1, "[1] | needs cfsctl: get it"),
        ("", 1, "does not list"),
        ("*::test_is_skipped*\n", 4, "1: not `TESTS | REASONS`"),
    ],
)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_that_is_not_listed_fails_the_run(
    tmp_path: Path, listed: str, code: int, said: str, workers: str
) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_addoption, pytest_configure\n"
    )
    (tmp_path / "test_sample.py").write_text(SKIPPING)
    (tmp_path / "skips").write_text(listed)
    command = [sys.executable, "-m", "pytest", "-n", workers, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir=.", "-c", os.devnull, "--expected-skips=skips", "test_sample.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": CHECKOUT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
