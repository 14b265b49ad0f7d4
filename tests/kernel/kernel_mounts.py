"""Kernel mounts of image files for tests, made by util-linux's mount, and what a tree shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

WALKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tree_walker.py")

Seen = dict[str, dict[str, Any]]  # path -> all about it


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """`mount ARGUMENTS`, the last of which is the mount point, for as long as the body runs."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


@contextmanager
def composefs(image: str, objects: str, scratch: str) -> Iterator[str]:
    """The image file `image` mounted by the kernel below `scratch`; needs root."""
    metadata, merged = os.path.join(scratch, "erofs"), os.path.join(scratch, "merged")
    os.mkdir(metadata)
    os.mkdir(merged)
    options = f"ro,metacopy=on,redirect_dir=on,lowerdir={metadata}::{objects}"
    with ExitStack() as stack:
        stack.enter_context(mounted("-t", "erofs", "-o", "ro", image, metadata))
        stack.enter_context(mounted("-t", "overlay", "-o", options, "composefs:test", merged))
        yield merged


def look(directory: str, prefix: list[str], environment: dict[str, str] | None = None) -> Seen:
    """All that is seen in `directory` by a program started with `prefix` in front.

    Inode numbers are replaced by the first path that has the same one: two mounts number
    differently, but must agree on what is one file.
    """
    done = subprocess.run(
        [*prefix, sys.executable, WALKER, directory],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = {}
    first: dict[int, str] = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        path = record.pop("path")
        record["ino"] = first.setdefault(record["ino"], path)
        seen[path] = record
    return seen


def differences(one: Seen, other: Seen) -> list[str]:
    """What is not the same, one line each."""
    lines = [f"{path}: only in the first" for path in one.keys() - other.keys()]
    lines += [f"{path}: only in the second" for path in other.keys() - one.keys()]
    for path in one.keys() & other.keys():
        lines += [
            f"{path}: {key}: {one[path].get(key)!r} != {other[path].get(key)!r}"
            for key in one[path].keys() | other[path].keys()
            if one[path].get(key) != other[path].get(key)
        ]
    return sorted(lines)
