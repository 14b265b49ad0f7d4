"""What a run brings into the guest, as one tar: our wheel, the tests, images."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence

from vmlib import expected

LAUNCHER = b"""\
#!/usr/bin/python3
import sys
from cfstools.%s import main
sys.exit(main())
"""
PROGRAMS = {"cfs": b"cli", "mount.cfs": b"mounthelper"}


def build(path: str, checkout: str, image: str, arguments: Sequence[str]) -> None:
    """Write the tar `path`: `site/` `bin/` `tests/` `guest/` `lib/` `campaign/` `oci/`.

    `lib/tests` are the tests of the host, some of which run in the guest, too; `oci` is the layout
    `image`.
    """
    with tarfile.open(path, "w") as tar:
        _add_wheel(tar, checkout)
        for name in ("guest", "tests"):
            tar.add(os.path.join(checkout, "vm-tests", name), name, filter=_entry)
        for name, place in (("tests", "lib/tests"), ("tools/campaign", "campaign")):
            tar.add(os.path.join(checkout, name), place, filter=_entry)
        tar.add(image, "oci", filter=_entry)
        _add_file(tar, "expected.json", expected.listing(image), 0o644)
        _add_file(tar, "arguments", "".join(f"{word}\n" for word in arguments).encode(), 0o644)


def _add_wheel(tar: tarfile.TarFile, checkout: str) -> None:
    """Build our wheel and add what is in it."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-qq",
            "--no-deps",
            "-w",
            scratch,
            checkout,
        ]
        subprocess.run(command, check=True)
        (wheel,) = os.listdir(scratch)
        with zipfile.ZipFile(os.path.join(scratch, wheel)) as files:
            for name in files.namelist():
                _add_file(tar, f"site/{name}", files.read(name), 0o644)
    for program, module in PROGRAMS.items():
        _add_file(tar, f"bin/{program}", LAUNCHER % module, 0o755)


def _add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _entry(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in entry.name or entry.name.endswith("/fuzz"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
