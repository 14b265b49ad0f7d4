#!/usr/bin/env python3
"""Find modules and functions that have grown too long to be read at a sitting.

usage: lengths.py [--report] PATH...

A module has at most 500 lines, a function at most 60, tests too. Exit 1 when something is longer;
with --report only say so.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_MAX = 500
FUNCTION_MAX = 60


def too_long(path: Path) -> Iterator[str]:
    """One line for the module at `path` and each of its functions that is too long."""
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    if lines > MODULE_MAX:
        yield f"{path}: the module has {lines} lines, over {MODULE_MAX}"
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_MAX:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, over {FUNCTION_MAX}"


def main(argv: list[str]) -> int:
    """Check the modules in `argv`, and those below the directories."""
    parser = argparse.ArgumentParser(description="Find modules and functions that are too long.")
    parser.add_argument("--report", action="store_true", help="exit 0 whatever is found")
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path, help="a directory or a module"
    )
    args = parser.parse_args(argv)
    found = [
        line
        for given in args.paths
        for path in ([given] if given.is_file() else sorted(given.rglob("*.py")))
        for line in too_long(path)
    ]
    for line in found:
        print(line)
    return 1 if found and not args.report else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
