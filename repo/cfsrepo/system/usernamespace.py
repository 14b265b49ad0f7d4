"""User namespaces as maps of owner ids, which idmapped mounts refer to.

Reference: user_namespaces(7), mount_setattr(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cfsrepo.system import linux

Map = Sequence[tuple[int, int, int]]
"""Rows of (first id inside, first id outside, count)."""


@contextmanager
def mapped(uids: Map, gids: Map) -> Iterator[str]:
    """The path of a new user namespace with these maps, kept while the body runs. Needs root."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _hold(ready[1], go)
    try:
        os.close(ready[1])
        ready = (ready[0], -1)
        if os.read(ready[0], 1) != b"1":
            raise OSError(os.strerror(1), "no user namespace can be made")
        _write(f"/proc/{child}/uid_map", uids)
        _write(f"/proc/{child}/gid_map", gids)
        yield f"/proc/{child}/ns/user"
    finally:
        for fd in (ready[0], ready[1], *go):
            if fd >= 0:
                os.close(fd)
        os.waitpid(child, 0)


def _hold(ready: int, go: tuple[int, int]) -> None:
    """The child's part: stay in a new namespace until the parent closes its end. Never returns."""
    try:
        os.close(go[1])
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(ready, b"1")
        os.read(go[0], 1)
    except OSError:
        os._exit(1)
    os._exit(0)


def _write(path: str, rows: Map) -> None:
    text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in rows)
    # In one write(2), as the kernel wants it.
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())
