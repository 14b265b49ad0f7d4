"""An image as an ordinary directory, and an image of it again, beside umoci and `cp -a`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import bench_pull
from measure import Contender, Row, Settings, compare, program, quietly, scratch_directory

SUBJECT = "worktree"
DESCRIPTION = "check the pull's image out, commit it with one more file, without root's rights"
QUICK = False
WALL_TARGET = 1.0


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    umoci = program("umoci")
    source = bench_pull.image()
    _, directory, tag = source.split(":")
    with scratch_directory("bench-worktree") as scratch:
        repository = os.path.join(scratch, "repository")
        layout = os.path.join(scratch, "layout")
        tree = os.path.join(scratch, "tree")
        bundle = os.path.join(scratch, "bundle")
        copied = os.path.join(scratch, "copied")
        cfs = [sys.executable, "-m", "cfstools", "--repo", repository]
        quietly(*cfs, "init")
        quietly(*cfs, "pull", source, "bench")
        shutil.copytree(directory, layout)  # umoci writes into it

        def without(path: str, command: Sequence[str]) -> Sequence[str]:
            _remove(path)
            os.sync()  # what the last run left to be written is not this one's
            return command

        checkout = [*cfs, "checkout", "bench", tree]
        unpack = [umoci, "unpack", "--rootless", "--image", f"{layout}:{tag}", bundle]
        checkouts = Contender("cfs", lambda: without(tree, checkout))
        unpacks = Contender("umoci unpack --rootless", lambda: without(bundle, unpack))
        copies = Contender("cp -a", lambda: without(copied, ["cp", "-a", tree, copied]))
        rows = compare(
            SUBJECT, "checkout", checkouts, unpacks, settings, floor=copies, target=WALL_TARGET
        )
        _remove(copied)

        number = 0

        def edited(path: str, command: Sequence[str]) -> Sequence[str]:
            nonlocal number
            number += 1
            with open(os.path.join(path, "edited"), "w", encoding="ascii") as file:
                print(number, file=file)
            os.sync()
            return command

        commit = [*cfs, "commit", tree, "edited", "--base", "bench"]
        repack = [umoci, "repack", "--image", f"{layout}:edited", bundle]
        rows += compare(
            SUBJECT,
            "commit",
            Contender("cfs", lambda: edited(tree, commit)),
            Contender("umoci repack", lambda: edited(os.path.join(bundle, "rootfs"), repack)),
            settings,
            floor=Contender("find", lambda: ["find", tree, "-printf", ""]),
            target=WALL_TARGET,
        )
        _remove(tree)
        _remove(bundle)
    return rows


def _remove(path: str) -> None:
    if os.path.exists(path):
        # Directories may be closed to their owner.
        subprocess.run(["chmod", "-R", "u+rwX", path], check=True)
        shutil.rmtree(path)
