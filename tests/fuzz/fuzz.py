"""Fuzz a target of `targets.py` with atheris: `fuzz.py TARGET [libFuzzer options] [CORPUS...]`.

`make fuzz` runs all targets for a minute each, with the corpora that are kept. The checkout and its
`repo` must be on PYTHONPATH.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["cfsrepo"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: fuzz.py {{{','.join(TARGETS)}}} [OPTIONS] [CORPUS...]")
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
