"""Print all that can be seen of a tree: run as a program, by whom the tree is to be seen.

usage: tree_walker.py DIRECTORY

One JSON object for each path, names and values as latin-1 text (bytes one to one). Programs of
other users cannot enter a FUSE mount, so the tests run this as its owner. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys


def describe(directory: int, name: bytes) -> dict[str, object]:
    """Everything about the entry `name` of the open `directory`."""
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    at = b"/proc/self/fd/%d/%s" % (directory, name)
    record: dict[str, object] = {
        "mode": oct(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "nlink": info.st_nlink,
        "size": info.st_size,
        "rdev": (os.major(info.st_rdev), os.minor(info.st_rdev)),
        "mtime": info.st_mtime_ns,
        "ino": info.st_ino,
        "xattrs": {
            key: os.getxattr(at, os.fsencode(key), follow_symlinks=False).decode("latin-1")
            for key in sorted(os.listxattr(at, follow_symlinks=False))
        },
    }
    if stat.S_ISLNK(info.st_mode):
        record["target"] = os.readlink(name, dir_fd=directory).decode("latin-1")
    elif stat.S_ISREG(info.st_mode):
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as file:
            record["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return record


def walk(top: bytes) -> None:
    """Print `top` and everything below, names in byte order."""
    waiting = [b"."]
    while waiting:
        path = waiting.pop()
        directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        # One step at a time: a path below may be longer than the kernel takes at once.
        for step in path.split(b"/"):
            below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        if path == b".":
            show(b".", describe(directory, b"."))
        for name in sorted(os.fsencode(entry) for entry in os.listdir(directory)):
            record = describe(directory, name)
            show(path + b"/" + name, record)
            if stat.S_ISDIR(int(str(record["mode"]), 8)):
                waiting.append(path + b"/" + name)
        os.close(directory)


def show(path: bytes, record: dict[str, object]) -> None:
    """One line."""
    print(json.dumps({"path": path.decode("latin-1"), **record}))


if __name__ == "__main__":
    walk(os.fsencode(sys.argv[1]))
