"""Differences between two trees, for people and for programs."""

from __future__ import annotations

import os
import stat

from cfsrepo.errors import printable
from cfsrepo.images.diff import Change, Difference, Entry

_SIGN = {Change.ADDED: "A", Change.REMOVED: "D", Change.CHANGED: "M"}


def difference_line(difference: Difference) -> str:
    """A difference for people: what happened, the path, and both values where they are short."""
    sign, path = _SIGN[difference.change], printable(difference.path)
    if difference.change is not Change.CHANGED:
        entry = difference.after or difference.before
        slash = "/" if entry is not None and stat.S_ISDIR(entry.mode) and path != "/" else ""
        return f"{sign} {path}{slash}"
    before, after = difference.before, difference.after
    assert before is not None
    assert after is not None
    return f"{sign} {path}: {', '.join(_what(word, before, after) for word in difference.what)}"


def _what(word: str, before: Entry, after: Entry) -> str:
    """A word with both values, where they are short."""
    match word:
        case "mode":
            return f"mode {before.mode & 0o7777:04o} -> {after.mode & 0o7777:04o}"
        case "owner":
            return f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}"
        case "content" if before.size != after.size:
            return f"content ({before.size} -> {after.size} bytes)"
        case "xattr":
            names = [
                key
                for key in sorted({*before.xattrs, *after.xattrs})
                if before.xattrs.get(key) != after.xattrs.get(key)
            ]
            return f"xattr {' '.join(printable(name) for name in names)}"
    return word


def difference_record(difference: Difference) -> dict[str, object]:
    """A difference for programs."""
    return {
        "change": str(difference.change),
        "path": os.fsdecode(difference.path),
        "what": list(difference.what),
        "before": _entry(difference.before),
        "after": _entry(difference.after),
    }


def _entry(entry: Entry | None) -> dict[str, object] | None:
    if entry is None:
        return None
    record: dict[str, object] = {
        "mode": f"{entry.mode:06o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": f"{entry.mtime[0]}.{entry.mtime[1]:09}",
        "xattrs": {os.fsdecode(name): value.hex() for name, value in entry.xattrs.items()},
    }
    if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
        record["device"] = [os.major(entry.rdev), os.minor(entry.rdev)]
    return record
