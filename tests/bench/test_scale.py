"""Curves of costs by size, and what is measured for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.bench.harness import TOOLS, measure, scale


def curve(*points: tuple[float, float]) -> object:
    usages = [(size, measure.Usage(cpu * 2, cpu, 1000)) for size, cpu in points]
    return scale.Curve("what", usages)


def test_slopes_tell_growth_in_proportion_from_worse() -> None:
    assert curve((10, 1), (100, 10), (1000, 100)).slopes("cpu") == pytest.approx([1, 1])
    assert curve((10, 1), (100, 100)).slopes("cpu") == pytest.approx([2])
    assert curve((10, 3), (1000, 3)).slopes("cpu") == [0]
    assert curve((10, 3)).slopes("cpu") == []


def test_points_are_collected_by_label(capsys: pytest.CaptureFixture[str]) -> None:
    usage = measure.Usage(1, 1, 1 << 20)
    curves = scale.collected(iter([("a", 1, usage), ("b", 1, usage), ("a", 2, usage)]))
    assert [(found.label, len(found.points)) for found in curves] == [("a", 2), ("b", 1)]
    assert "| a | 2 | 1 s | 1 s | 1 MiB | 0.00 |" in scale.table("t", "axis", curves)


def test_the_simulated_store_is_collected_as_a_real_one_would_be() -> None:
    """The program compares what is found dead with what it made so."""
    program = os.path.join(TOOLS, "bench", "simulatedstore.py")
    subprocess.run([sys.executable, program, str(256 * 150)], check=True)
