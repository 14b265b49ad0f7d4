"""Pulling images into a fresh repository, beside cfsctl and tar."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import build_image
from measure import Contender, Row, Settings, compare, program, quietly, scratch_directory

SUBJECT = "pull"
DESCRIPTION = "pull OCI images into a fresh repository, in memory and on disk"
QUICK = True

HERE = os.path.dirname(os.path.abspath(__file__))
MEMORY = "/dev/shm"  # noqa: S108 - the names in it are mkdtemp's
# What a pull of the largest image and its rival's take, in bytes.
MEMORY_NEEDED = 12 << 30
WALL_TARGET, CPU_TARGET = 0.5, 0.6
TAR_TARGET = 1.15


def image() -> str:
    """`oci:DIRECTORY:TAG` of an ordinary image: $CFS_BENCH_IMAGE, else the benchmarks' `big`."""
    return os.environ.get("CFS_BENCH_IMAGE") or build_image.image("big")


def run(settings: Settings) -> list[Row]:
    """The rows of this subject."""
    cfsctl = program("cfsctl")
    if settings.quick:
        with _in_memory(1 << 30) as scratch:
            return _beside_cfsctl(cfsctl, "small", build_image.image("small"), scratch, settings)
    rows: list[Row] = []
    big = image()
    for name, source in (
        ("big", big),
        ("many", build_image.image("many")),
        ("fat", build_image.image("fat")),
    ):
        with _in_memory() as scratch:
            rows += _beside_cfsctl(cfsctl, f"{name}, in memory", source, scratch, settings)
    with scratch_directory("pull") as scratch:
        rows += _beside_cfsctl(cfsctl, "big, on disk", big, scratch, settings, targets=False)
        rows += _beside_tar("big, on disk", big, scratch, settings)
    return rows


@contextmanager
def _in_memory(needed: int = MEMORY_NEEDED) -> Iterator[str]:
    """A directory in a tmpfs with `needed` bytes of room; elsewhere where there is none."""
    roomy = os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > needed
    if not roomy:
        print(f"bench: pull: too little room in {MEMORY}: on disk instead", file=sys.stderr)
    with scratch_directory("pull", MEMORY if roomy else None) as scratch:
        yield scratch


def _ours(repository: str, source: str) -> Contender:
    def fresh() -> Sequence[str]:
        cfs = [sys.executable, "-m", "cfstools", "--repo", repository]
        _forget(repository)
        quietly(*cfs, "init")
        return [*cfs, "pull", source, "bench"]

    return Contender("cfs", fresh)


def _forget(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.sync()  # what the last run left to be written is not this one's


def _beside_cfsctl(
    cfsctl: str,
    what: str,
    source: str,
    scratch: str,
    settings: Settings,
    *,
    targets: bool = True,
) -> list[Row]:
    repository = os.path.join(scratch, "repository")

    def fresh() -> Sequence[str]:
        theirs = [cfsctl, "--repo", repository]
        _forget(repository)
        quietly(*theirs, "init", "--insecure", "--algorithm", "fsverity-sha256-12")
        return [*theirs, "oci", "pull", source, "b:1"]

    floor = [sys.executable, os.path.join(HERE, "floors.py"), "pull", source.split(":")[1]]
    wall, cpu = (WALL_TARGET, CPU_TARGET) if targets else (None, None)
    rows = compare(
        SUBJECT,
        what,
        _ours(repository, source),
        Contender("cfsctl", fresh),
        settings,
        floor=Contender("unpack and hash", lambda: floor),
        target=wall,
        cpu_target=cpu,
    )
    _forget(repository)
    return rows


def _beside_tar(what: str, source: str, scratch: str, settings: Settings) -> list[Row]:
    """Beside the unpacking of layers that are not even compressed."""
    repository, target = os.path.join(scratch, "repository"), os.path.join(scratch, "target")
    tars = _layers(source.split(":")[1], scratch)

    def fresh() -> Sequence[str]:
        _forget(target)
        os.mkdir(target)
        where = shlex.quote(target)
        unpack = [f"tar xf {shlex.quote(tar)} -C {where}" for tar in tars]
        return ["sh", "-c", " && ".join([*unpack, f"sync -f {where}"])]

    rows = compare(
        SUBJECT,
        what,
        _ours(repository, source),
        Contender("tar x; sync", fresh),
        settings,
        target=TAR_TARGET,
    )
    _forget(target)
    return rows


def _layers(layout: str, scratch: str) -> list[str]:
    """The layers of an OCI layout's image as plain tars in `scratch`."""

    def blob(digest: str) -> str:
        return os.path.join(layout, "blobs", digest.replace(":", "/"))

    with open(os.path.join(layout, "index.json"), encoding="utf-8") as file:
        manifest = json.load(file)["manifests"][0]["digest"]
    with open(blob(manifest), encoding="utf-8") as file:
        layers = json.load(file)["layers"]
    paths = []
    for number, layer in enumerate(layers):
        path = os.path.join(scratch, f"layer{number}.tar")
        quietly("sh", "-c", 'exec gzip -dc "$1" > "$2"', "sh", blob(layer["digest"]), path)
        paths.append(path)
    return paths
