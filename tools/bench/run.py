#!/usr/bin/env python3
"""Measure us beside our peers; prints a table of ratios.

usage: run.py [--rounds N] [--quick] [SUBJECT...]

A subject is a module `bench_NAME.py` in this directory with SUBJECT, DESCRIPTION and
`run(settings) -> list[Row]`; QUICK says whether it is among the subjects of a quick run. A subject
whose peer is not installed says so and is left out.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import report  # noqa: E402 - found through the line above
from measure import BenchError, Row, Settings, scratch_directory  # noqa: E402


def subjects() -> dict[str, str]:
    """Name -> module of every subject."""
    names = sorted(glob.glob("bench_*.py", root_dir=HERE))
    return {name[len("bench_") : -len(".py")]: name[: -len(".py")] for name in names}


def parse(known: dict[str, str]) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description="Measure us beside our peers.")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each (5; 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="two minutes on small inputs")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(known))
    args = parser.parse_args()
    unknown = set(args.subjects) - known.keys()
    if unknown:
        parser.error(f"unknown subject {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return args


def main() -> int:
    """Run the subjects that are asked for."""
    known = subjects()
    args = parse(known)
    settings = Settings(args.rounds or (3 if args.quick else 5), args.quick)
    rows: list[Row] = []
    skipped = 0
    began = time.monotonic()
    for name in args.subjects or known:
        module = importlib.import_module(known[name])
        if settings.quick and not args.subjects and not module.QUICK:
            continue
        print(f"bench: {module.SUBJECT}: {module.DESCRIPTION}", file=sys.stderr, flush=True)
        try:
            rows += module.run(settings)
        except BenchError as error:
            print(f"bench: {name} is left out: {error}", file=sys.stderr)
            skipped += 1
    with scratch_directory("bench") as scratch:
        print(report.machine(os.path.dirname(scratch)))
    print(report.method(settings, time.monotonic() - began), end="\n\n")
    print(report.table(rows))
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
