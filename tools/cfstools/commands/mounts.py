"""`cfs mounts`: list the mounts of images, with their servers and what these have done."""

from __future__ import annotations

import os
from typing import Any

from cfsfuse import mounts, records
from cfsrepo.system.mounttable import Mount
from cfstools import context
from cfstools.options import Arguments
from cfstools.render.amounts import amount
from cfstools.render.jsontext import print_json
from cfstools.render.tables import print_table


def run(args: Arguments) -> int:
    servers = {record.mount_point: record for record in records.records()}
    rows = []
    for mount in mounts.our_mounts(context.repository_path(args)):
        rows.append(_describe(mount, servers.get(os.fsdecode(mount.mount_point))))
    if args.json:
        print_json(rows)
    elif rows:
        print_table(
            ("IMAGE", "MODE", "STATE", "PID", "REQUESTS", "HITS", "VERIFIED", "DIRECTORY"),
            [_columns(row) for row in rows],
            right="   >>>>",
        )
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
        row["image"],
        row["mode"],
        row["state"],
        str(row.get("pid", "-")),
        str(row.get("requests", "-")),
        str(row.get("cache_hits", "-")),
        "-" if verified is None else amount(verified),
        row["mount_point"],
    )
