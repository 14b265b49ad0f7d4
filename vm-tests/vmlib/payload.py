"""What a run brings into the guest, as one tar: our wheel and one more, the tests, images."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence

from vmlib import expected, root

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
        _add_wheel(tar, "wheel", checkout)
        # Debian's package of it clashes with another that has a module of that name.
        _add_wheel(tar, "download", *_for_guest("xattr"))
        for program, module in PROGRAMS.items():
            _add_file(tar, f"bin/{program}", LAUNCHER % module, 0o755)
        for name in ("guest", "tests"):
            tar.add(os.path.join(checkout, "vm-tests", name), name, filter=_entry)
        for name, place in (("tests", "lib/tests"), ("tools/campaign", "campaign")):
            tar.add(os.path.join(checkout, name), place, filter=_entry)
        tar.add(image, "oci", filter=_entry)
        _add_file(tar, "expected.json", expected.listing(image), 0o644)
        _add_file(tar, "arguments", "".join(f"{word}\n" for word in arguments).encode(), 0o644)


def _for_guest(package: str) -> list[str]:
    """Arguments that make `pip download` fetch the guest's wheel of what is installed here."""
    machine = platform.machine()
    return [
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={root.PYTHON}",
        f"--platform=manylinux_2_17_{machine}",
        f"--platform=manylinux2014_{machine}",
        f"{package}=={importlib.metadata.version(package)}",
    ]


def _add_wheel(tar: tarfile.TarFile, command: str, *arguments: str) -> None:
    """Have pip build (`wheel`) or `download` a wheel, and add what is in it."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", command, "-qq", "--no-deps", f"--dest={scratch}"]
        if command == "wheel":
            pip[-1] = f"--wheel-dir={scratch}"
        subprocess.run([*pip, *arguments], check=True)
        (wheel,) = os.listdir(scratch)
        with zipfile.ZipFile(os.path.join(scratch, wheel)) as files:
            for name in files.namelist():
                if name.endswith("/"):
                    continue  # a directory, which some wheels list
                _add_file(tar, f"site/{name}", files.read(name), 0o644)


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
