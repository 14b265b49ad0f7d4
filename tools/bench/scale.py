#!/usr/bin/env python3
"""How costs grow with the size of things: measured, plotted and judged.

usage: scale.py [--quick] [CURVE...]

For each curve: a plot `plots/CURVE.svg`, both axes logarithmic: what grows in proportion is a
line of slope 1; and on stdout a table with the slope between each two points. A slope above 1 that
goes on rising says that the cost grows faster than the thing. Plots need matplotlib
(`pip install -e '.[bench]'`); without it there is the table alone.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import bench_formats  # noqa: E402 - found through the line above
import bench_gc  # noqa: E402
import bench_pull  # noqa: E402
from measure import BenchError, Usage, measure, program, scratch_directory  # noqa: E402

PLOTS = os.path.join(HERE, "plots")
MIB = 1 << 20
CFS = [sys.executable, "-m", "cfstools"]

DIGEST = """
import os, sys
from cfsrepo.formats.fsverity import Algorithm
from cfsrepo.store import paralleldigest
paralleldigest.digest_fd(os.open(sys.argv[1], os.O_RDONLY), Algorithm.SHA256)
"""


@dataclass(slots=True)
class Curve:
    """The cost of one thing at several sizes."""

    label: str
    points: list[tuple[float, Usage]] = field(default_factory=list)

    def slopes(self, key: str) -> list[float]:
        """Between each two neighbours: 1 where the cost grows as the size does."""
        return [
            math.log(getattr(high, key) / getattr(low, key)) / math.log(large / small)
            for (small, low), (large, high) in itertools.pairwise(self.points)
        ]


def entries(quick: bool) -> Iterator[tuple[str, float, Usage]]:
    """Images of more and more files: made from a dump, dumped."""
    with scratch_directory("scale") as scratch:
        dump, image = os.path.join(scratch, "dump"), os.path.join(scratch, "image")
        for count in (10_000, 30_000, 100_000) if quick else (10_000, 100_000, 300_000, 1_000_000):
            with open(dump, "wb") as file:
                file.writelines(line + b"\n" for line in bench_formats.dump_lines(count))
            yield "make", count, measure([*CFS, "mkcomposefs", "--from-file", dump, image])
            yield (
                "dump",
                count,
                measure(bench_formats.quiet([*CFS, "composefs-info", "dump", image])),
            )
            yield (
                "ls -R",
                count,
                measure(bench_formats.quiet([*CFS, "ls", "-R", "--objects", scratch, image])),
            )


def images(quick: bool) -> Iterator[tuple[str, float, Usage]]:
    """Repositories of more and more images, 20 objects of their own each."""
    with scratch_directory("scale") as scratch:
        for count in (1, 10, 100) if quick else (1, 10, 100, 1000):
            repository = os.path.join(scratch, str(count))
            bench_gc.build(repository, count, 200, 20)
            cfs = [*CFS, "--repo", repository]
            yield "images", count, measure([*cfs, "images"])
            yield "gc --dry-run", count, measure([*cfs, "gc", "--dry-run"])
            yield "fsck", count, measure([*cfs, "fsck"])


def objects(quick: bool) -> Iterator[tuple[str, float, Usage]]:
    """Collections in stores of more and more objects; the names of the objects are made up."""
    for count in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000):
        command = [sys.executable, os.path.join(HERE, "simulatedstore.py"), str(count)]
        yield "gc --dry-run, simulated", count, measure(command)


def file_sizes(quick: bool) -> Iterator[tuple[str, float, Usage]]:
    """Digests of larger and larger files of zeros, on a tmpfs, which stores none of them."""
    fsverity = program("fsverity")
    with scratch_directory("scale", bench_pull.MEMORY) as scratch:
        path = os.path.join(scratch, "file")
        for size in (1, 10) if quick else (1, 4, 16, 100):
            with open(path, "wb") as file:
                file.truncate(size << 30)
            yield "cfs", size, measure([sys.executable, "-c", DIGEST, path])
            if size <= 16:
                yield "fsverity digest", size, measure([fsverity, "digest", path])
            os.unlink(path)


# name -> what is measured, what the horizontal axis says
CURVES: dict[str, tuple[Callable[[bool], Iterator[tuple[str, float, Usage]]], str]] = {
    "entries": (entries, "entries of the image"),
    "images": (images, "images in the repository"),
    "objects": (objects, "objects in the repository"),
    "file-sizes": (file_sizes, "size of the file, GiB"),
}


def collected(points: Iterator[tuple[str, float, Usage]]) -> list[Curve]:
    """The points by label."""
    curves: dict[str, Curve] = {}
    for label, size, usage in points:
        curves.setdefault(label, Curve(label)).points.append((size, usage))
        print(f"scale: {label}, {size:,g}: {usage.wall:.3g} s", file=sys.stderr, flush=True)
    return list(curves.values())


def table(name: str, axis: str, curves: Sequence[Curve]) -> str:
    """The curves as Markdown: CPU time and memory; slopes of the CPU time."""
    lines = [
        f"| {name} | {axis} | wall | CPU | memory | slope of CPU |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for curve in curves:
        slopes = ["", *(f"{slope:.2f}" for slope in curve.slopes("cpu"))]
        for (size, usage), slope in zip(curve.points, slopes, strict=True):
            lines.append(
                f"| {curve.label} | {size:,g} | {usage.wall:.3g} s | {usage.cpu:.3g} s "
                f"| {usage.memory / MIB:.0f} MiB | {slope} |"
            )
    return "\n".join(lines)


def plot(name: str, axis: str, curves: Sequence[Curve]) -> None:
    """Write `plots/NAME.svg`: CPU time on the left, memory on the right."""
    try:
        import matplotlib
    except ImportError:
        print("scale: no plots without matplotlib: pip install -e '.[bench]'", file=sys.stderr)
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = name  # the same curves give the same file
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for curve in curves:
        sizes = [size for size, _ in curve.points]
        times.plot(sizes, [usage.cpu for _, usage in curve.points], "o-", label=curve.label)
        memory.plot(sizes, [usage.memory / MIB for _, usage in curve.points], "o-")
    for axes, what in ((times, "CPU time, s"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel=what)
        axes.grid(visible=True, which="both", alpha=0.3)
    times.legend()
    os.makedirs(PLOTS, exist_ok=True)
    figure.savefig(os.path.join(PLOTS, f"{name}.svg"), metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    """Measure the curves that are asked for."""
    parser = argparse.ArgumentParser(description="How costs grow with the size of things.")
    parser.add_argument("--quick", action="store_true", help="leave the largest sizes out")
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=", ".join(CURVES))
    args = parser.parse_args()
    if unknown := set(args.curves) - CURVES.keys():
        parser.error(f"unknown curve {', '.join(sorted(unknown))}; there are {', '.join(CURVES)}")
    failed = 0
    for name in args.curves or CURVES:
        points, axis = CURVES[name]
        try:
            curves = collected(points(args.quick))
        except BenchError as error:
            print(f"scale: {name} is left out: {error}", file=sys.stderr)
            failed = 1
            continue
        plot(name, axis, curves)
        print(table(name, axis, curves), end="\n\n", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
