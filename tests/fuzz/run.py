"""Run the fuzzers: `run.py [--seconds=N] [TARGET...]`; exit 1 when something was found.

What libFuzzer learns is kept below .cache/fuzz and used by the next run; findings are left there
too, as TARGET-crash-*, TARGET-timeout-*, TARGET-oom-*.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
CORPUS = os.path.join(HERE, "corpus")
TARGETS = sorted(path.name for path in Path(CORPUS).iterdir())
LIMITS = ("-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1")
MAX_LENGTH = {"image": 65536, "dump": 65536, "tar": 32768}  # of inputs; what is not here: 4096


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parsers of hostile bytes.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"of {', '.join(TARGETS)}")
    args = parser.parse_args(argv)
    paths = [CHECKOUT, os.path.join(CHECKOUT, "repo")]
    failed = 0
    for target in args.targets or TARGETS:
        learnt = os.path.join(CHECKOUT, ".cache", "fuzz", target)
        os.makedirs(learnt, exist_ok=True)
        command = [sys.executable, os.path.join(HERE, "fuzz.py"), target, *LIMITS]
        command += [f"-max_total_time={args.seconds}", f"-artifact_prefix={learnt}-"]
        command += [f"-max_len={MAX_LENGTH.get(target, 4096)}"]
        command += [learnt, os.path.join(CORPUS, target)]
        print(f"fuzz: {target}, {args.seconds} s", flush=True)
        environment = {**os.environ, "PYTHONPATH": ":".join(paths)}
        failed += subprocess.run(command, env=environment, check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
