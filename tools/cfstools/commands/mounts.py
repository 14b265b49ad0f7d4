"""`cfs mounts`: list the mounts of images, with their servers and what these have done."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from cfsfuse import mounts, records
from cfsrepo.errors import printable
from cfsrepo.system.mounttable import Mount
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    servers = {record.mount_point: record for record in records.records()}
    rows = []
    for mount in mounts.our_mounts():
        rows.append(_describe(mount, servers.get(os.fsdecode(mount.mount_point))))
    if args.json:
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")
    elif rows:
        lines: list[tuple[str, ...]] = []
        lines += [("IMAGE", "MODE", "STATE", "PID", "REQUESTS", "HITS", "VERIFIED", "DIRECTORY")]
        lines += [_columns(row) for row in rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            shown = "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
            sys.stdout.write(shown.rstrip() + "\n")
    return 0


def _describe(mount: Mount, server: records.Record | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "mount_point": os.fsdecode(mount.mount_point),
        "image": os.fsdecode(mount.source),
        "mode": "kernel" if mount.fstype == "overlay" else "fuse",
    }
    if server is not None:
        row["state"] = "live"
        row["image_id"] = server.image_id
        row["repository"] = server.repository
        row["pid"] = server.pid
        row["engine"] = server.engine
        row["verify"] = server.verify
        row["options"] = server.options
        row["log"] = server.log
        row.update(records.numbers_of(server) or {"state": "not answering"})
    else:
        # Without a record: a mount of the kernel, of another user, or a server that was killed.
        row["state"] = "dead" if mounts.is_dead(mount) else "live"
    return row


def _columns(row: dict[str, Any]) -> tuple[str, ...]:
    verified = row.get("verified_bytes")
    return (
        printable(row["image"]),
        row["mode"],
        row["state"],
        str(row.get("pid", "-")),
        str(row.get("requests", "-")),
        str(row.get("cache_hits", "-")),
        "-" if verified is None else f"{verified / 1e6:.1f} MB",
        printable(row["mount_point"]),
    )
