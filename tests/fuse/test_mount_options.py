"""The options of a FUSE mount, as `-o` has them."""

from __future__ import annotations

import pytest

from cfsfuse.options import Engine, MountOptions, parse, with_kernel
from cfsrepo.errors import UsageError
from cfsrepo.images.owners import Owners, Range
from cfsrepo.images.verified import Verify


def test_everything_at_once() -> None:
    options = parse(
        [
            "ro,allow_other,verify=always,uid=5,gid=6",
            "engine=pyfuse3,subdir=usr/share,repo=/srv/a\\,b,noauto,x-systemd.automount,nofail",
        ]
    )
    assert options == MountOptions(
        engine=Engine.PYFUSE3,
        verify=Verify.ALWAYS,
        kernel=("ro", "allow_other"),
        owners=Owners(uid=5, gid=6),
        subdir=b"usr/share",
        repository="/srv/a,b",
    )
    assert options.shared


def test_an_idmap_keeps_its_commas() -> None:
    options = parse(["idmap=u:0:1:2\\,g:3:4:5"])
    assert options.owners.uid_ranges == (Range(0, 1, 2),)
    assert options.owners.gid_ranges == (Range(3, 4, 5),)


def test_later_options_win() -> None:
    assert parse(["uid=1"], parse(["uid=2,gid=3"])).owners == Owners(uid=1, gid=3)


def test_an_option_for_the_kernel_is_given_once() -> None:
    options = with_kernel(with_kernel(MountOptions(), "suid"), "suid")
    assert options.kernel == ("suid",)
    assert parse(["enforce_permissions"]).kernel == ("default_permissions",)
    assert not options.shared


@pytest.mark.parametrize(
    "text",
    [
        "rw",
        "unknown",
        "unknown=1",
        "verify=maybe",
        "engine=fast",
        "uid=-1",
        "uid=x",
        "uid=",
        "gid=4294967296",
        "idmap=1:2",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=text.partition("=")[0]):
        parse([text])
