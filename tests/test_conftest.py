"""The fixtures that other tests trust: the unprivileged user and the look-up of peer programs."""

from __future__ import annotations

import os
import stat
import sys

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
