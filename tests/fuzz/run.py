"""Run the fuzzers: `run.py [--seconds=N] [TARGET...]`; exit 1 when something was found.

What libFuzzer learns is kept below .cache/fuzz and used by the next run; findings are left there
too, as TARGET-crash-*, TARGET-timeout-*, TARGET-oom-*.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
TARGETS = ("dump", "image")
LIMITS = ("-timeout=20", "-rss_limit_mb=1024", "-max_len=65536", "-print_final_stats=1")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parsers of dumps and images.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"of {', '.join(TARGETS)}")
    args = parser.parse_args(argv)
    paths = [CHECKOUT, os.path.join(CHECKOUT, "repo"), HERE]
    failed = 0
    for target in args.targets or TARGETS:
        learnt = os.path.join(CHECKOUT, ".cache", "fuzz", target)
        os.makedirs(learnt, exist_ok=True)
        command = [sys.executable, os.path.join(HERE, "fuzz.py"), target, *LIMITS]
        command += [f"-max_total_time={args.seconds}", f"-artifact_prefix={learnt}-"]
        command += [learnt, os.path.join(HERE, "corpus", target)]
        print(f"fuzz: {target}, {args.seconds} s", flush=True)
        environment = {**os.environ, "PYTHONPATH": ":".join(paths)}
        failed += subprocess.run(command, env=environment, check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
