"""The machine is what the other tests take it for."""

from __future__ import annotations

import os
import subprocess


def test_the_root_file_system_has_verity(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "wb") as file:
        file.write(bytes(10000))
    subprocess.run(["fsverity", "enable", path], check=True)
    with open(path, "rb") as file:
        assert file.read() == bytes(10000)


def test_our_wheel_is_installed() -> None:
    done = subprocess.run(["cfs", "--help"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: cfs")
