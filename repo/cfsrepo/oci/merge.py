"""Layers to one tree, by composefs-rs's rules, so that an image has the id that cfsctl gives it.

`Merger.add_layer` takes the layers from the lowest up, each as its members in archive order, with
their contents as the split stream has them. `finish` gives the tree.

The rules (module `design` of the crate `composefs-oci`, and what cfsctl 0.9.4 really does):

- A directory on a directory replaces the metadata and keeps the entries; anything else replaces.
- `.wh.NAME` deletes NAME of the layers below, `.wh..wh..opq` all entries of its directory.
- A hard link is one more name of an inode, across layers too.
- `/` takes its metadata from `/usr`. `/run` is emptied and takes its mtime from `/usr`.
- Of extended attributes only `security.capability` stays (`XattrMode.OCI`).
- mtime is that of the archive: whole seconds, nanoseconds where a pax header has them.
- A regular file of at most `INLINE_MAX` bytes keeps its content in the image.

Where cfsctl refuses an image that others accept, or makes one that is wrong, this module follows
the OCI image specification and tar(1). Ids can differ from cfsctl's in these cases only:

    case                                    cfsctl 0.9.4               here
    --------------------------------------  -------------------------  ---------------------------
    opaque marker or whiteout after         deletes those too          deletes what is below only
    entries of its own layer
    parent directory in no layer            refuses                    0755, 0:0, mtime 0
    whiteout in a directory in no layer     refuses                    nothing to delete
    sparse file                             refuses                    the file, holes as zeros
    mtime before 1970 in a pax header       refuses                    that mtime
    mtime before 1970 otherwise             not the image's oldest     the oldest, as in C's
                                            when build_time is chosen  mkcomposefs
    image without a directory /usr          refuses                    `/` as its own entry says,
                                                                       else 0755, 0:0, mtime 0
    /run that is no directory               refuses                    stays as it is
    archive without end blocks, the last    refuses                    taken
    member being empty
    uid or gid of 2^32 and more             becomes another owner      error
    device number of more than 12+20 bits   becomes another device     error
    name over 255 bytes                     no system can open it      error
    empty link target                       no system can make it      error
    symlink target over 4095 bytes          no system can make it      error
    path over 4096 bytes                    taken                      error
    v7 directory (type NUL, name ends in /) a regular file             a directory
    link, directory, device with a size     skips that much            has no data
    lone block of zeros                     skipped                    error
    absolute path (but for `/` itself)      taken as relative          error

The target of a hard link may begin with `/`: it is relative to the root all the same. Both refuse
`..` in a path, a path through something that is no directory, a hard link to a directory or to
nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from enum import StrEnum

from cfsrepo.errors import InputError, LimitError, printable
from cfsrepo.formats.splitstream import Digest
from cfsrepo.formats.tar.reader import HARDLINK, Member
from cfsrepo.formats.tree import NAME_MAX, Inode, directory, walk
from cfsrepo.store.objects import object_path

INLINE_MAX = 64
PATH_MAX = 4096
SYMLINK_MAX = 4095
XATTR_NAME_MAX = 255
XATTR_VALUE_MAX = 65535
MEMBERS_MAX = 1 << 22  # of all layers together; each costs some 500 bytes of memory

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS = b".wh..wh."  # other names that begin so are aufs's own bookkeeping: not part of the image

Content = bytes | Digest | None
"""What a regular file holds: its bytes (at most `INLINE_MAX`), its object, None if empty."""


class XattrMode(StrEnum):
    """Which extended attributes of the layers an image keeps."""

    OCI = "oci"
    """`security.capability` alone: what cfsctl keeps, so the ids are equal."""
    ALL = "all"
    """All but `user.cfs.*` (a layer could forge an owner) and overlayfs's own."""


_NEVER_KEPT = (b"user.cfs.", b"trusted.overlay.", b"user.overlay.")
_CAPABILITY = b"security.capability"


class Merger:
    """Builds the tree of an image from its layers, lowest first."""

    def __init__(self, xattrs: XattrMode = XattrMode.OCI) -> None:
        self.root = directory()
        self.mode = xattrs
        self.dropped_xattrs = 0
        """How many `user.cfs.*` attributes were left out."""
        self._layers = 0
        self._members = 0
        self._name = ""
        # Parent paths as the archive spells them -> directory; emptied when a directory goes away.
        self._parents: dict[bytes, Inode] = {}
        # id of a directory -> names that the current layer put into it. A directory that goes away
        # can only hand its id on to one of the same layer, whose names are all of this layer too.
        self._fresh: dict[int, set[bytes]] = {}

    def add_layer(self, members: Iterable[tuple[Member, Content]], name: str = "layer") -> None:
        """Put the next layer (`name` in errors) on top. InputError: the layer makes no sense."""
        self._name = name
        self._layers += 1
        self._fresh.clear()
        self._parents.clear()
        for member, content in members:
            self._members += 1
            self._add(member, content)
            if self._members > MEMBERS_MAX:
                raise LimitError(f"{name}: more than {MEMBERS_MAX} entries in an image")

    def finish(self) -> Inode:
        """The tree, with root and /run as the rules say and link counts set."""
        root = self.root
        entries = root.entries
        assert entries is not None
        usr = entries.get(b"usr")
        source = root if usr is None or not usr.is_dir else usr
        if source is not root:
            _copy_metadata(source, root)
        run = entries.get(b"run")
        if run is not None and run.entries is not None:
            run.mtime_sec, run.mtime_nsec = source.mtime_sec, source.mtime_nsec
            run.entries.clear()
        _count_links(root)
        return root

    # -- one member -------------------------------------------------------------------------------

    def _add(self, member: Member, content: Content) -> None:
        path = member.path
        if path[:1] == b"/" and self._components(path):
            raise self._bad(path, "an absolute path; a layer's are relative to its root")
        head, _, name = path.rpartition(b"/")
        if name in _NO_NAME or len(path) > PATH_MAX:
            parts = self._components(path)
            if not parts:
                self._set_root(member)
                return
            name = parts.pop()
            head = b"/".join(parts)
        if name.startswith(WHITEOUT):
            self._whiteout(head, name, path)
            return
        parent = self._parents.get(head)
        if parent is None:
            parent = self._make_parent(head, path)
            if parent is None:
                return
        if len(name) > NAME_MAX:
            raise LimitError(
                f"{self._name}: a name of {len(name)} bytes (at most {NAME_MAX}): "
                f"{printable(name[:64])}..."
            )
        entries = parent.entries
        assert entries is not None
        old = entries.get(name)
        if member.kind == stat.S_IFDIR and old is not None and old.entries is not None:
            self._set_metadata(old, member)
        else:
            inode = self._hard_link(member) if member.kind == HARDLINK else None
            if inode is None:
                inode = self._inode(member, content)
            if old is not None and old.entries is not None:
                self._parents.clear()
            entries[name] = inode
        if self._layers > 1:
            fresh = self._fresh.get(id(parent))
            if fresh is None:
                fresh = self._fresh[id(parent)] = set()
            fresh.add(name)

    def _inode(self, member: Member, content: Content) -> Inode:
        kind = member.kind
        inode = Inode(
            kind | member.mode,
            uid=member.uid,
            gid=member.gid,
            mtime_sec=member.mtime_sec,
            mtime_nsec=member.mtime_nsec,
            xattrs=self._xattrs(member) if member.xattrs else None,
        )
        if kind == stat.S_IFREG:
            inode.size = member.size
            if isinstance(content, Digest):
                inode.digest = bytes(content)
                inode.payload = object_path(content).encode()
            else:
                inode.content = content or None
        elif kind == stat.S_IFDIR:
            inode.entries = {}
        elif kind == stat.S_IFLNK:
            if len(member.link) > SYMLINK_MAX:
                raise LimitError(
                    f"{self._name}: {printable(member.path)}: a symbolic link of "
                    f"{len(member.link)} bytes (at most {SYMLINK_MAX})"
                )
            inode.payload = member.link
            inode.size = len(member.link)
        else:
            inode.rdev = member.rdev
        return inode

    def _hard_link(self, member: Member) -> Inode:
        parts = self._components(member.link)
        inode: Inode | None = self.root
        for part in parts:
            inode = None if inode is None or inode.entries is None else inode.entries.get(part)
        if inode is None or not parts:
            raise self._bad(
                member.path, f"a hard link to {printable(member.link)}, which does not exist"
            )
        if inode.entries is not None:
            raise self._bad(
                member.path, f"a hard link to {printable(member.link)}, which is a directory"
            )
        return inode

    def _set_root(self, member: Member) -> None:
        if member.kind != stat.S_IFDIR:
            raise self._bad(member.path, "the root must be a directory")
        self._set_metadata(self.root, member)

    def _set_metadata(self, inode: Inode, member: Member) -> None:
        inode.mode = stat.S_IFDIR | member.mode
        inode.uid, inode.gid = member.uid, member.gid
        inode.mtime_sec, inode.mtime_nsec = member.mtime_sec, member.mtime_nsec
        inode.xattrs = self._xattrs(member) if member.xattrs else None

    def _xattrs(self, member: Member) -> dict[bytes, bytes] | None:
        found = member.xattrs
        assert found is not None
        if self.mode is XattrMode.OCI:
            value = found.get(_CAPABILITY)
            kept = {} if value is None else {_CAPABILITY: value}
        else:
            kept = {key: value for key, value in found.items() if not key.startswith(_NEVER_KEPT)}
        self.dropped_xattrs += sum(key.startswith(b"user.cfs.") for key in found)
        for key, value in kept.items():
            if not 0 < len(key) <= XATTR_NAME_MAX or b"\0" in key or len(value) > XATTR_VALUE_MAX:
                raise LimitError(
                    f"{self._name}: {printable(member.path)}: extended attribute "
                    f"{printable(key[:64])} is over the limits (name {len(key)} of "
                    f"{XATTR_NAME_MAX} bytes, value {len(value)} of {XATTR_VALUE_MAX})"
                )
        return kept or None

    # -- paths ------------------------------------------------------------------------------------

    def _components(self, path: bytes) -> list[bytes]:
        """The names in `path`, without `.` and empty ones; `..` is refused."""
        if len(path) > PATH_MAX:
            raise LimitError(
                f"{self._name}: a path of {len(path)} bytes (at most {PATH_MAX}): "
                f"{printable(path[:64])}..."
            )
        parts = [part for part in path.split(b"/") if part not in _NOTHING]
        if b".." in parts:
            raise self._bad(path, "'..' in a path")
        return parts

    def _make_parent(self, head: bytes, path: bytes) -> Inode | None:
        """The directory `head`, made with what is missing above it; None: aufs's bookkeeping."""
        parent = self.root
        for part in self._components(head):
            entries = parent.entries
            if entries is None:
                raise self._bad(path, "it is below something that is no directory")
            child = entries.get(part)
            if child is None:
                if part.startswith(WHITEOUT):
                    if part.startswith(AUFS):
                        return None
                    raise self._bad(path, "it is below a whiteout")
                if len(part) > NAME_MAX:
                    raise LimitError(
                        f"{self._name}: a name of {len(part)} bytes (at most {NAME_MAX}): "
                        f"{printable(part[:64])}..."
                    )
                self._members += 1
                child = entries[part] = directory()
            parent = child
        if parent.entries is None:
            raise self._bad(path, "it is below something that is no directory")
        self._parents[head] = parent
        return parent

    def _bad(self, path: bytes, what: str) -> InputError:
        return InputError(f"{self._name}: {printable(path[:PATH_MAX])}: {what}")

    # -- whiteouts --------------------------------------------------------------------------------

    def _whiteout(self, head: bytes, name: bytes, path: bytes) -> None:
        parent: Inode | None = self.root
        for part in self._components(head):
            entries = None if parent is None else parent.entries
            parent = None if entries is None else entries.get(part)
        if name.startswith(AUFS) and name != OPAQUE:
            return
        target = name[len(WHITEOUT) :]
        if target in _NO_NAME:
            raise self._bad(path, "a whiteout of nothing")
        if parent is None or parent.entries is None or self._layers == 1:
            return
        self._drop_lower(parent, list(parent.entries) if name == OPAQUE else [target])
        self._parents.clear()

    def _drop_lower(self, parent: Inode, names: list[bytes]) -> None:
        """Remove from `parent` what the layers below put under `names`, at any depth.

        What the current layer put there stays, wherever its whiteout stands in the archive. A
        directory of the layers below that is still needed as a parent loses its metadata.
        """
        # Each directory on the stack: itself, the names left to look at, its own name.
        stack = [(parent, names, b"")]
        while stack:
            inode, todo, own_name = stack[-1]
            entries = inode.entries
            assert entries is not None
            fresh = self._fresh.get(id(inode), _NO_NAMES)
            if todo:
                name = todo.pop()
                child = entries.get(name)
                if child is None:
                    continue
                if child.entries is not None:
                    stack.append((child, list(child.entries), name))
                elif name not in fresh:
                    del entries[name]
                continue
            stack.pop()
            if not stack:
                return
            above = stack[-1][0]
            assert above.entries is not None
            if own_name in self._fresh.get(id(above), _NO_NAMES):
                continue
            if entries:
                _copy_metadata(directory(), inode)
            else:
                del above.entries[own_name]


_NO_NAME = (b"", b".", b"..")
_NOTHING = (b"", b".")
_NO_NAMES: frozenset[bytes] = frozenset()


def _copy_metadata(source: Inode, target: Inode) -> None:
    target.mode = source.mode
    target.uid, target.gid = source.uid, source.gid
    target.mtime_sec, target.mtime_nsec = source.mtime_sec, source.mtime_nsec
    target.xattrs = None if source.xattrs is None else dict(source.xattrs)


def _count_links(root: Inode) -> None:
    """Set `nlink` everywhere: names of a file, 2 + subdirectories of a directory."""
    seen: set[int] = set()
    for _, inode in walk(root):
        if inode.entries is not None:
            inode.nlink = 2 + sum(child.entries is not None for child in inode.entries.values())
        elif id(inode) in seen:
            inode.nlink += 1
        else:
            seen.add(id(inode))
            inode.nlink = 1
