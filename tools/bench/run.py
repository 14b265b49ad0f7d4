#!/usr/bin/env python3
"""Measure us beside our peers; prints a table of ratios.

usage: run.py [--rounds N] [SUBJECT...]

A subject is a module `bench_NAME.py` in this directory with SUBJECT, DESCRIPTION and
`run(rounds) -> list[Row]`. A subject whose peer is not installed says so and is left out.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

from measure import BenchError, Row  # noqa: E402 - found through the line above


def subjects() -> dict[str, str]:
    """Name -> module of every subject."""
    names = sorted(glob.glob("bench_*.py", root_dir=HERE))
    return {name[len("bench_") : -len(".py")]: name[: -len(".py")] for name in names}


def table(rows: list[Row]) -> str:
    """`rows` for a reader, as Markdown."""
    lines = [
        "| subject | what | ours | peer | peer's | ratio | target |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        lines.append(
            f"| {row.subject} | {row.what} | {row.ours:.3g} {row.unit} | {row.peer_name} "
            f"| {row.peer:.3g} {row.unit} | {row.ratio:.2f} | {target} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the subjects that are asked for."""
    known = subjects()
    parser = argparse.ArgumentParser(description="Measure us beside our peers.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(known))
    args = parser.parse_args()
    unknown = set(args.subjects) - known.keys()
    if unknown:
        parser.error(f"unknown subject {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    rows: list[Row] = []
    skipped = 0
    for name in args.subjects or known:
        module = importlib.import_module(known[name])
        print(f"bench: {module.SUBJECT}: {module.DESCRIPTION}", file=sys.stderr, flush=True)
        try:
            rows += module.run(args.rounds)
        except BenchError as error:
            print(f"bench: {name} is left out: {error}", file=sys.stderr)
            skipped += 1
    print(table(rows))
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
