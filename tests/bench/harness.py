"""The modules of the benchmarks, which are scripts beside each other, for the tests."""

from __future__ import annotations

import importlib
import os
import sys

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "tools")
sys.path[:0] = [os.path.join(TOOLS, "bench"), TOOLS]

measure = importlib.import_module("measure")
scale = importlib.import_module("scale")
report = importlib.import_module("report")
