"""What `cfs mount` is asked for, by flags and by `-o`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cfsfuse import connection
from cfsfuse.options import Engine, MountOptions
from cfsrepo.errors import UsageError
from cfsrepo.images.owners import Owners, Range
from cfsrepo.images.verified import Verify
from cfsrepo.kernel import kernelmount
from cfstools.mountrequest import Helper, KernelRequest, MountRequest
from cfstools.options import catalogue, mount_options, parser


def asked(*argv: str) -> MountRequest:
    line = parser.split(["mount", *argv, "image", "dir"])
    return MountRequest(parser.parse(catalogue.command("mount"), line))


# --- FUSE ----------------------------------------------------------------------------------------


def test_all_words_of_a_fuse_mount_at_once() -> None:
    request = asked(
        "-o",
        "ro,allow_other,no_enforce,verify=always,uid=5,gid=6",
        "-o",
        "engine=pyfuse3,subdir=usr/share,repo=/srv/a\\,b,noauto,x-systemd.automount,nofail,suid",
    )
    options = request.for_fuse()
    assert options == MountOptions(
        engine=Engine.PYFUSE3,
        verify=Verify.ALWAYS,
        kernel=("ro", "allow_other", "suid"),
        owners=Owners(uid=5, gid=6),
        subdir=b"usr/share",
    )
    assert request.repository == "/srv/a,b"
    assert options.shared
    assert not request.by_kernel


def test_flags_are_the_same_as_words() -> None:
    flags = asked("--verify=off", "--uid=1", "--idmap=u:0:1:2,g:3:4:5", "--enforce-permissions")
    words = asked("-o", "verify=off,uid=1,idmap=u:0:1:2\\,g:3:4:5,enforce_permissions")
    assert flags.for_fuse() == words.for_fuse()
    assert words.for_fuse().owners.uid_ranges == (Range(0, 1, 2),)
    assert words.for_fuse().owners.gid_ranges == (Range(3, 4, 5),)
    assert words.for_fuse().kernel == ("default_permissions",)
    assert asked().for_fuse() == MountOptions()


def test_flags_win_and_later_words_win() -> None:
    assert asked("-o", "uid=1", "-o", "uid=2,gid=3").for_fuse().owners == Owners(uid=2, gid=3)
    assert asked("--uid=1", "-o", "uid=2").for_fuse().owners == Owners(uid=1)
    assert asked("-o", "suid,nosuid").for_fuse().kernel == ("nosuid",)


def test_the_kernel_checks_modes_when_others_may_use_the_mount() -> None:
    assert asked("-o", "allow_other").for_fuse().kernel == ("allow_other", "default_permissions")
    assert asked("-o", "allow_other,no_enforce").for_fuse().kernel == ("allow_other",)


def test_words_for_the_kernel_are_known_to_the_connection() -> None:
    words = "ro,allow_other,suid,dev,exec"
    assert set(asked("-o", words).for_fuse().kernel) <= connection.KERNEL_OPTIONS
    assert set(asked("-o", "nosuid,nodev,noexec").for_fuse().kernel) <= connection.KERNEL_OPTIONS


# --- kernel --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "request_"),
    [
        ([], KernelRequest()),
        (["--rw"], KernelRequest(in_memory=True)),
        (["-o", "rw"], KernelRequest(in_memory=True)),
        (["-o", "ro,rw"], KernelRequest(in_memory=True)),
        (["-o", "memory"], KernelRequest(in_memory=True)),
        (["-o", "ro,memory"], KernelRequest(read_only=True)),
        (["-o", "rw,upperdir=u,workdir=w"], KernelRequest(upper="u", work="w")),
        (["-o", "ro,upperdir=u,workdir=w"], KernelRequest(read_only=True, upper="u", work="w")),
        (
            ["--upper=u", "--work=w", "--read-only"],
            KernelRequest(None, None, False, "u", "w", True),
        ),
        (["-o", "verity"], KernelRequest(require_verity=True)),
        (["-o", "noverity"], KernelRequest(require_verity=False)),
        (["-o", "noverity", "--require-verity"], KernelRequest(require_verity=True)),
        (["-o", "verity", "--no-require-verity"], KernelRequest(require_verity=False)),
        (
            ["-o", "digest=ab", "--helper=builtin"],
            KernelRequest(digest="ab", helper=Helper.BUILTIN),
        ),
        (["-o", "idmap=1"], KernelRequest(idmap="1")),
        (
            ["-o", "nosuid,nodev,noexec,noatime,dev"],
            KernelRequest(attributes=frozenset({"nosuid", "noexec", "noatime"})),
        ),
    ],
)
def test_kernel_requests(argv: list[str], request_: KernelRequest) -> None:
    assert asked(*argv).for_kernel() == request_


def test_attributes_are_those_of_the_kernel_mount() -> None:
    attributes = asked("-o", "nosuid,nodev,noexec,noatime").for_kernel().attributes
    assert attributes == kernelmount.ATTRIBUTES.keys()


def test_layers_are_absolute() -> None:
    layers = asked("--upper=u", "--work=w").for_kernel().layers
    assert layers == kernelmount.Upper(f"{Path.cwd()}/u", f"{Path.cwd()}/w")


# --- which kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in mount_options.TABLE if row.kind])
def test_an_option_of_one_kind_asks_for_it(
    row: mount_options.MountOption, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = (row.choices or ("1",))[0]
    argvs = []
    if row.flag:
        argvs.append([f"{row.flag}={value}" if row.value else row.flag])
    if row.word:
        argvs.append(["-o", f"{row.word}={value}" if row.value else row.word])
    for argv in argvs:
        for uid in (0, 1000):
            monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
            assert asked(*argv).by_kernel == (row.kind == "kernel")


def test_root_mounts_by_the_kernel_and_users_by_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for uid in (0, 1000):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert asked("-o", "ro,nosuid,nofail", "--idmap=1:2:3").by_kernel == (uid == 0)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--fuse", "--kernel"], "--fuse is for FUSE mounts, --kernel for kernel mounts"),
        (["--uid=1", "-o", "verity"], "--uid is for FUSE mounts, -o verity for kernel mounts"),
        (["-o", "allow_other,rw"], "-o allow_other is for FUSE mounts, -o rw for kernel mounts"),
        (["--no-require-verity", "--fuse"], "--no-require-verity for kernel mounts"),
    ],
)
def test_both_kinds_at_once_are_refused(argv: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        _ = asked(*argv).by_kernel


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unknown", "unknown option of -o: unknown"),
        ("unknown=1", "unknown option of -o: unknown=1"),
        ("verify=maybe", "-o verify: no such choice: maybe"),
        ("engine=fast", "-o engine: no such choice: fast"),
        ("uid=", "needs a value: uid=N"),
        ("digest", "needs a value: digest=HEX"),
        ("ro=1", "ro takes no value"),
        ("uid=-1", "uid -1: not a number"),
        ("uid=x", "uid x: not a number"),
        ("gid=4294967296", "gid 4294967296: not a number"),
        ("idmap=1:2", "idmap"),
    ],
)
def test_words_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked("-o", text).for_fuse()


def test_a_typing_error_gets_a_hint() -> None:
    with pytest.raises(UsageError) as raised:
        asked("-o", "allow_others")
    assert raised.value.hint == "did you mean allow_other?"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--upper=u"], "belong together"),
        (["-o", "workdir=w"], "belong together"),
        (["--rw", "--upper=u", "--work=w"], "--rw keeps changes in memory"),
    ],
)
def test_kernel_requests_that_are_refused(argv: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        asked(*argv).for_kernel()
