"""The results for a reader: a table in Markdown, and the machine they are of."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence

from measure import Row, Settings

# Program and how it says its version.
PEERS = (
    ("cfsctl", "--version"),
    ("mkcomposefs", "--version"),
    ("umoci", "--version"),
    ("fsverity", "--version"),
)


def table(rows: Iterable[Row]) -> str:
    """`rows` as a table. A ratio below 1 is better than the peer; `x floor`: ours by the floor."""
    lines = [
        "| subject | what | ours | peer | peer's | ratio | spread | floor | x floor | target |",
        "|---|---|---:|---|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row.spread
        floor = times = ""
        if row.floor is not None:
            floor = amount(row.floor, row.unit)
            times = f"{row.ours / row.floor:.1f}" if row.floor else ""
        target = "" if row.target is None else f"{row.target:g}"
        lines.append(
            f"| {row.subject} | {row.what} | {amount(row.ours, row.unit)} | {row.peer_name} "
            f"| {amount(row.peer, row.unit)} | {row.ratio:.2f} | {low:.2f}-{high:.2f} "
            f"| {floor} | {times} | {target} |"
        )
    return "\n".join(lines)


def amount(value: float, unit: str) -> str:
    """Three digits and the unit; counts as they are."""
    return f"{value:.3g} {unit}" if unit else f"{value:,.0f}"


def machine(scratch: str) -> str:
    """What was measured on; `scratch` is on the disk that was used."""
    processor = _value("/proc/cpuinfo", "model name") or platform.machine()
    memory = int((_value("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) >> 20
    parts = [
        time.strftime("%Y-%m-%d", time.gmtime()),
        f"{len(os.sched_getaffinity(0))} x {processor}, {memory} GiB",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        f"{_file_system(scratch)} below {scratch}",
        *_versions(),
    ]
    return "; ".join(parts)


def method(settings: Settings, seconds: float) -> str:
    """How the table came about."""
    return (
        f"{settings.rounds} rounds{' of the quick kind' if settings.quick else ''}, all contenders "
        f"in turns; medians; {seconds / 60:.0f} minutes"
    )


def _value(path: str, key: str) -> str | None:
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def _file_system(path: str) -> str:
    command = ["findmnt", "-n", "-o", "FSTYPE", "-T", path]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _versions() -> Sequence[str]:
    versions = []
    for name, option in PEERS:
        if shutil.which(name) is not None:
            done = subprocess.run([name, option], capture_output=True, text=True, check=False)
            words = (done.stdout + done.stderr).split()
            version = next((word for word in words if word.lstrip("v")[:1].isdigit()), "?")
            versions.append(f"{name} {version}")
    return versions
