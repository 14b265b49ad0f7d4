#!/usr/bin/env python3
"""Interrupt everything that writes to a repository, and crowd one with many programs at a time.

usage: run.py [--rounds N] [--full-rounds N] [--seconds N] [--seed N] [--directory DIR]

  kill    kill -9 at random instants of pull, tag, gc, clone, fsck --repair and (where the file
          system has it) verity enable. After each: fsck is clean, every name is still there, the
          same command run again succeeds, and a collection frees all garbage.
  full    the same on a file system that gets full at a random point (a tmpfs; needs root).
  crowd   four pullers, a tagger, a collector and two readers at once for a while: nothing is lost,
          nobody waits forever, every reader finds every byte.

Prints counts. The first thing that does not hold ends it, with exit code 1, and the repository is
left in place.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import concurrency  # noqa: E402 - found through the line above
import crash  # noqa: E402
import workload  # noqa: E402
from crash import Counts  # noqa: E402
from workload import CampaignError  # noqa: E402


def main() -> int:
    """Run the campaigns that the options ask for."""
    parser = argparse.ArgumentParser(description="Crash and concurrency campaigns.")
    parser.add_argument("--rounds", type=int, default=300, help="kills (default: %(default)s)")
    parser.add_argument(
        "--full-rounds", type=int, default=100, help="rounds on a full disk (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="of the crowd (default: %(default)s)"
    )
    parser.add_argument("--files", type=int, default=150, help="in a layer (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of all that is random (default: a new one)")
    parser.add_argument("--directory", help="where to work (default: a temporary directory)")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    directory = tempfile.mkdtemp(prefix="cfs-campaign-", dir=args.directory or "/var/tmp")
    try:
        _run(args, directory, seed)
    except CampaignError as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    return 0


def _run(args: argparse.Namespace, directory: str, seed: int) -> None:
    source = random.Random(seed)
    sources = workload.build_layout(f"{directory}/layout", seed, args.files)
    if args.rounds:
        _print("killed", crash.kill_campaign(directory, sources, args.rounds, source))
    if args.full_rounds and os.geteuid() == 0:
        _print("full", crash.full_campaign(directory, sources, args.full_rounds, source))
    elif args.full_rounds:
        print("full: left out, only root can make small file systems", flush=True)
    if args.seconds:
        counts = concurrency.campaign(directory, sources, args.seconds, seed)
        for name, count in counts.items():
            print(f"crowd: {name:<12}{count:>6} times", flush=True)
        if not all(count for name, count in counts.items()):
            raise CampaignError("one of them never got a turn")


def _print(title: str, counts: dict[str, Counts]) -> None:
    for name, count in counts.items():
        print(
            f"{title}: {name:<14}{count.rounds:>5} rounds, {count.interrupted:>4} interrupted, "
            f"{count.freed:>6} objects of garbage freed; all sound",
            flush=True,
        )
    total = sum(count.rounds for count in counts.values())
    print(f"{title}: {total} rounds in all", flush=True)


if __name__ == "__main__":
    sys.exit(main())
