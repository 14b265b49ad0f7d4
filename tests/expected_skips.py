"""`--expected-skips=FILE`: a run fails when a test is skipped that FILE does not list.

A skip is good on a machine that lacks something. On one that is meant to have everything it hides a
test, for the sake of a package that was not installed. FILE has a line for each skip that is meant:

    GLOB OF TEST IDS | GLOB OF REASONS

Empty lines, and comments from `#` at the start of a line, are for saying why.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Expected:
    """A line of the list."""

    tests: str
    reasons: str

    def covers(self, test: str, reason: str) -> bool:
        """Whether the skip of `test` for `reason` is this one."""
        return fnmatchcase(test, self.tests) and fnmatchcase(reason, self.reasons)


def read_list(path: Path) -> list[Expected]:
    """The lines of the list at `path`."""
    expected = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        tests, bar, reasons = (part.strip() for part in line.partition("|"))
        if not bar or not tests or not reasons:
            raise pytest.UsageError(f"{path}:{number}: not `TESTS | REASONS`")
        expected.append(Expected(tests, reasons))
    return expected


class SkipWatch:
    """Collects the skips of a run, those of parallel workers too, and fails it in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._expected = read_list(path)
        self.unexpected: list[str] = []

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(line.covers(report.nodeid, reason) for line in self._expected):
            self.unexpected.append(f"{report.nodeid} | {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexpected:
            terminalreporter.section(f"skips that {self._path} does not list", red=True)
            for line in sorted(self.unexpected):
                terminalreporter.line(line)
