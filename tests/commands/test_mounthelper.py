"""`mount.cfs` turns what mount(8) says into `cfs mount`, and its answer into mount(8)'s codes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cfstools import cli, mounthelper
from tests.conftest import CHECKOUT

UNIT = os.path.join(CHECKOUT, "tools", "systemd", "cfs-image@.service")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines given to `cfs`, which succeeds."""
    lines: list[list[str]] = []

    def main(argv: list[str]) -> int:
        lines.append(argv)
        return 0

    monkeypatch.setattr(cli, "main", main)
    return lines


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (
            ["image", "/mnt", "-o", "rw,repo=/r"],
            ["mount", "-o", "repo=/r", "--", "image", "/mnt"],
        ),
        (
            ["-v", "-o", "repo=/r", "-t", "cfs", "-n", "-s", "-N", "1", "image", "/mnt"],
            ["mount", "--verbose", "-o", "repo=/r", "--", "image", "/mnt"],
        ),
        (
            ["image", "/mnt", "-o", "ro,nofail", "-o", "rw,repo=/r\\,1"],
            [
                *("mount", "-o", "ro", "-o", "nofail", "-o", "repo=/r\\,1"),
                *("--", "image", "/mnt"),
            ],
        ),
    ],
)
def test_what_is_called(called: list[list[str]], argv: list[str], command: list[str]) -> None:
    assert mounthelper.main(argv) == 0
    assert called == [command]


def test_a_fake_mount_does_nothing(called: list[list[str]]) -> None:
    assert mounthelper.main(["image", "/mnt", "-f", "-o", "repo=/r"]) == 0
    assert called == []


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["image"], "usage"),
        (["image", "/mnt", "more", "-o", "repo=/r"], "usage"),
        (["image", "/mnt", "-Q"], "option -Q not recognized"),
        (["image", "/mnt", "-o", "ro"], "no repository"),
    ],
)
def test_wrong_usage(
    called: list[list[str]], capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    assert mounthelper.main(argv) == 1
    assert text in capsys.readouterr().err
    assert called == []


@pytest.mark.parametrize(
    ("options", "code"), [("repo={0}/nowhere", 32), ("repo={0}/nowhere,bind,kernel", 1)]
)
def test_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, code: int
) -> None:
    argv = ["image", str(tmp_path), "-o", options.format(tmp_path)]
    assert mounthelper.main(argv) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    instance = tmp_path / "cfs-image@srv-app.service"
    shutil.copy(UNIT, instance)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(instance)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "cfs-image" in line]
    assert complaints == []
