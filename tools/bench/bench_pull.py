"""Pulling an image into a fresh repository, beside cfsctl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import build_image
from measure import Contender, Row, compare, program, scratch_directory

import imagebuilder

SUBJECT = "pull"
DESCRIPTION = "pull an OCI image of some 50,000 files and a gigabyte into a fresh repository"
WALL_TARGET = 1.5


def image() -> str:
    """`oci:DIRECTORY:TAG` of what is pulled: $CFS_BENCH_IMAGE, else the benchmarks' image."""
    if chosen := os.environ.get("CFS_BENCH_IMAGE"):
        return chosen
    directory = os.path.join(imagebuilder.cache_directory(), "bench-image")
    if not os.path.exists(os.path.join(directory, "index.json")):
        build_image.build(directory)
    return f"oci:{directory}:{build_image.TAG}"


def run(rounds: int) -> list[Row]:
    """The rows of this subject."""
    source = image()
    cfsctl = program("cfsctl")
    with scratch_directory("bench") as scratch:
        repository = os.path.join(scratch, "repository")

        def fresh(init: Sequence[str], pull: Sequence[str]) -> Sequence[str]:
            shutil.rmtree(repository, ignore_errors=True)
            os.sync()  # what the last run left to be written is not this one's
            subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
            return pull

        cfs = [sys.executable, "-m", "cfstools", "--repo", repository]
        other = [cfsctl, "--repo", repository]
        algorithm = ["--algorithm", "fsverity-sha256-12"]
        ours = Contender("cfs", lambda: fresh([*cfs, "init"], [*cfs, "pull", source, "bench"]))
        peer = Contender(
            "cfsctl",
            lambda: fresh(
                [*other, "init", "--insecure", *algorithm], [*other, "oci", "pull", source, "b:1"]
            ),
        )
        return compare(SUBJECT, "fresh pull", ours, peer, rounds, WALL_TARGET)
