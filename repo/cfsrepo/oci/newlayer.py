"""A layer made of the difference between two trees, stored as its split stream.

The layer holds what is new or changed, whiteouts for what is gone, and the directories above all of
that (some runtimes unpack a layer by itself and would invent them). A hard-linked file comes with
all its names as soon as one of them is new, since these runtimes cannot link to a lower layer.

Merging the layer onto the old tree gives the new one, but for `/` itself and what is in `/run`,
which images do not keep.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass

from cfsrepo.errors import InputError, RepositoryError, printable
from cfsrepo.formats.splitstream import OCI_LAYER, SplitStreamWriter
from cfsrepo.formats.tar.reader import HARDLINK, Member
from cfsrepo.formats.tar.writer import END, encode
from cfsrepo.formats.tree import Inode, walk
from cfsrepo.oci.layeredtree import WHITEOUT
from cfsrepo.oci.merge import INLINE_MAX
from cfsrepo.store.objects import ObjectStore

_READ_SIZE = 1 << 20
_CHUNK_MAX = 8 << 20  # bytes of a split stream between two objects, before it is cut


@dataclass(frozen=True, slots=True)
class NewLayer:
    """A stored layer: its archive's digest (`sha256:HEX`) and size, its split stream's digest."""

    diff_id: str
    size: int
    stream: bytes
    entries: int
    newest: int
    """The latest mtime in it, in whole seconds; 0 in an empty one."""


def store_difference(base: Inode, tree: Inode, objects: ObjectStore) -> NewLayer:
    """Store the layer that makes `tree` of `base`. InputError for a name that a layer cannot hold
    (`.wh.*`) or a socket."""
    writer = _LayerWriter(objects)
    for path, inode in _difference(base, tree):
        writer.add(path, inode)
    return writer.finish()


def _difference(base: Inode, tree: Inode) -> list[tuple[bytes, Inode | None]]:
    """(path, inode) of what the layer holds, parents first; None: the path is gone."""
    old_groups, new_groups = _groups(base), _groups(tree)
    wanted: dict[bytes, Inode | None] = {}
    # Pairs of directories that both trees have (the base's may be missing).
    pending: list[tuple[bytes, Inode | None, Inode]] = [(b"", base, tree)]
    while pending:
        parent, old_parent, new_parent = pending.pop()
        old_entries = (old_parent.entries if old_parent is not None else None) or {}
        new_entries = new_parent.entries or {}
        for name in old_entries.keys() - new_entries.keys():
            wanted[_join(parent, name)] = None
        for name, inode in new_entries.items():
            path = _join(parent, name)
            old = old_entries.get(name)
            if old is None or not _same(old, inode):
                wanted[path] = inode
            elif old_groups.get(path) != (group := new_groups.get(path)):
                wanted.update(dict.fromkeys(group or (path,), inode))
            if inode.entries is not None:
                same_kind = old if old is not None and old.entries is not None else None
                pending.append((path, same_kind, inode))
    for path, found in list(wanted.items()):
        if found is not None and (group := new_groups.get(path)):
            wanted.update(dict.fromkeys(group, found))
    for path in list(wanted):
        _want_parents(path, tree, wanted)
    return sorted(wanted.items())


def _want_parents(path: bytes, tree: Inode, wanted: dict[bytes, Inode | None]) -> None:
    inode = tree
    at = b""
    for name in path.split(b"/")[:-1]:
        at = _join(at, name)
        assert inode.entries is not None
        inode = inode.entries[name]
        wanted[at] = inode


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _groups(root: Inode) -> dict[bytes, tuple[bytes, ...]]:
    """Path -> all paths of the same inode, for files with several."""
    paths: dict[Inode, list[bytes]] = {}
    for path, inode in walk(root):
        if inode.entries is None and inode.nlink > 1:
            paths.setdefault(inode, []).append(path[1:])
    return {path: tuple(group) for group in paths.values() if len(group) > 1 for path in group}


def _same(old: Inode, new: Inode) -> bool:
    """Whether both have the same metadata and content; entries of directories are not compared."""
    return (
        old.mode == new.mode
        and old.uid == new.uid
        and old.gid == new.gid
        and old.mtime_sec == new.mtime_sec
        and old.mtime_nsec == new.mtime_nsec
        and (old.xattrs or {}) == (new.xattrs or {})
        and (new.is_dir or old.size == new.size)
        and (old.content or b"") == (new.content or b"")
        and old.payload == new.payload
        and (not new.is_device or old.rdev == new.rdev)
    )


class _LayerWriter:
    """Writes the archive into a split stream, hashing what the archive as a whole would be."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._stream = SplitStreamWriter(objects.algorithm, OCI_LAYER)
        self._hash = hashlib.sha256()
        self._size = 0
        self._entries = 0
        self._newest = 0
        self._first: dict[Inode, bytes] = {}

    def add(self, path: bytes, inode: Inode | None) -> None:
        """Append an entry; None: a whiteout."""
        head, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT):
            raise InputError(f"/{printable(path)}: no layer can hold a name that begins with .wh.")
        self._entries += 1
        if inode is None:
            path = _join(head, WHITEOUT + name)
            self._inline(encode(Member(stat.S_IFREG, path, mode=0o644)))
            return
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFSOCK:
            raise InputError(f"/{printable(path)}: no layer can hold a socket")
        link = b""
        if inode.entries is None and inode.nlink > 1:
            link = self._first.setdefault(inode, path)
            if link == path:
                link = b""
        if link:
            kind = HARDLINK
        elif kind == stat.S_IFLNK:
            link = inode.payload or b""
        size = inode.size if kind == stat.S_IFREG else 0
        if self._stream.pending > _CHUNK_MAX:
            self._stream.end_chunk()
        self._newest = max(self._newest, inode.mtime_sec)
        self._inline(
            encode(
                Member(
                    kind,
                    path,
                    link=link,
                    mode=inode.mode & 0o7777,
                    uid=inode.uid,
                    gid=inode.gid,
                    mtime_sec=inode.mtime_sec,
                    mtime_nsec=inode.mtime_nsec,
                    rdev=inode.rdev,
                    size=size,
                    stored=size,
                    xattrs=inode.xattrs if kind != HARDLINK else None,
                )
            )
        )
        if size > INLINE_MAX:
            self._external(inode)
        elif size:
            self._inline(inode.content or b"")
        self._inline(bytes(-size % 512))

    def _inline(self, data: bytes) -> None:
        self._hash.update(data)
        self._size += len(data)
        self._stream.inline(data)

    def _external(self, inode: Inode) -> None:
        digest = inode.digest
        if digest is None:
            raise RepositoryError(f"{printable(inode.payload or b'')}: an object without a digest")
        fd = self._objects.open(digest)
        try:
            size = 0
            while chunk := os.read(fd, _READ_SIZE):
                self._hash.update(chunk)
                size += len(chunk)
        finally:
            os.close(fd)
        if size != inode.size:
            raise self._objects.damaged(digest)
        self._size += size
        self._stream.external(digest, size)

    def finish(self) -> NewLayer:
        """End the archive and store its stream."""
        self._inline(END)
        with self._objects.writer() as out:
            self._stream.finish_to(out.write)
            stream = out.commit()
        diff_id = f"sha256:{self._hash.hexdigest()}"
        return NewLayer(diff_id, self._size, stream, self._entries, self._newest)
