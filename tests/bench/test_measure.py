"""The benchmarks' instruments, held against programs of known time and size."""

from __future__ import annotations

import os
import sys

import pytest

from tests.bench.harness import measure, report

MIB = 1 << 20
PAGES = "data = bytearray({size}); data[::4096] = bytes(len(data[::4096])).replace(b'\\0', b'x')"


def python(*lines: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", "\n".join(lines)]


def burn(seconds: float) -> list[str]:
    """Lines of a program that computes for so long and prints how long it took really."""
    return [
        "import time",
        f"while time.process_time() < {seconds}: pass",
        "print(time.process_time())",
    ]


def test_memory_is_that_of_the_program_not_of_the_harness() -> None:
    """A large parent counts to a child's peak until exec; the launcher is small."""
    large = bytearray(300 * MIB)
    large[::4096] = b"x" * len(large[::4096])
    nothing = measure.measure(["true"])
    assert nothing.memory < 40 * MIB
    some = measure.measure(python(PAGES.format(size=100 * MIB)))
    assert 100 * MIB <= some.memory < 140 * MIB
    assert len(large) == 300 * MIB


def test_memory_of_all_processes_together_is_counted() -> None:
    child = PAGES.format(size=60 * MIB)
    usage = measure.measure(
        python(
            "import os, time",
            "ready, wait = os.pipe(), os.pipe()",
            "for _ in range(2):",
            "    if os.fork() == 0:",
            f"        {child}",
            "        os.write(ready[1], b'x')",
            "        os.read(wait[0], 1)",
            "        os._exit(0)",
            "for _ in range(2): os.read(ready[0], 1)",
            f"time.sleep({20 * measure.SAMPLE_SECONDS})",  # some samples see both
            "os.write(wait[1], b'xx')",
            "for _ in range(2): os.wait()",
        )
    )
    assert 120 * MIB <= usage.memory < 180 * MIB


def test_time_is_that_of_the_program() -> None:
    usage = measure.measure(python(*burn(0.4), "time.sleep(0.3)"))
    assert usage.cpu >= 0.4
    assert usage.wall >= 0.7
    assert usage.cpu < usage.wall  # what slept used no processor


def test_time_of_children_counts() -> None:
    inner = python(*burn(0.3))
    outer = python("import subprocess", f"subprocess.run({inner!r})", f"subprocess.run({inner!r})")
    assert measure.measure(outer).cpu >= 0.6


def test_failures_say_what_the_program_said() -> None:
    with pytest.raises(measure.BenchError, match=r"(?s)exit code 3.*no such luck"):
        measure.measure(["sh", "-c", "echo no such luck; exit 3"])
    with pytest.raises(measure.BenchError, match="cannot be started"):
        measure.measure(["/nonexistent/program"])


def test_output_of_any_size_is_no_hindrance() -> None:
    measure.measure(["sh", "-c", f"head -c {8 * MIB} /dev/zero"])


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> measure.Contender:
        def prepare() -> list[str]:
            order.append(name)
            return ["true"]

        return measure.Contender(name, prepare)

    rows = measure.compare(
        "subject",
        "what",
        contender("ours"),
        contender("peer"),
        measure.Settings(rounds=2),
        floor=contender("floor"),
        target=0.5,
        cpu_target=0.7,
    )
    assert order == ["ours", "peer", "floor"] * 2
    assert [row.what for row in rows] == ["what, wall", "what, CPU", "what, memory"]
    assert [row.target for row in rows] == [0.5, 0.7, None]
    assert [row.floor is not None for row in rows] == [True, True, False]


def test_ratios_are_taken_round_by_round() -> None:
    """The third round was slow for both; the medians of each alone would say 1.5."""
    row = measure.row("s", "w", "s", [2, 3, 40], [1, 2, 20], "peer", floor=[1, 1, 2], target=2)
    assert (row.ours, row.peer, row.floor) == (3, 2, 1)
    assert row.ratio == 2
    assert row.spread == (1.5, 2)
    line = report.table([row]).splitlines()[-1]
    assert line == "| s | w | 3 s | peer | 2 s | 2.00 | 1.50-2.00 | 1 s | 3.0 | 2 |"


def test_the_machine_is_named(tmp_path: os.PathLike[str]) -> None:
    text = report.machine(os.fspath(tmp_path))
    assert f"Linux {os.uname().release}" in text
    assert "GiB" in text
