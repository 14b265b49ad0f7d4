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
    path through a symbolic link of the     refuses                    goes where the link leads,
    same layer                                                         never out of the root
    path through a symbolic link, or a      refuses                    a directory (as if in no
    file, of a layer below                                             layer) replaces it; warning
    whiteout below any of these             refuses                    the same, but what is not
                                                                       there is not made
    hard link through a symbolic link       refuses                    as for paths
    of the same layer
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
    more than `Limits` allow                taken                      error

Names and the targets of hard links may begin with `/`: they are relative to the root all the same.
Both refuse `..` in a path, a path through a file of the same layer that is neither directory nor
link, a hard link to a directory or to nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from enum import StrEnum

from cfsrepo.errors import LimitError, printable
from cfsrepo.formats.splitstream import Digest
from cfsrepo.formats.tar.reader import HARDLINK, Member
from cfsrepo.formats.tree import NAME_MAX, Inode, walk
from cfsrepo.oci.layeredtree import (
    AUFS,
    OPAQUE,
    PATH_MAX,
    WHITEOUT,
    LayeredTree,
    copy_metadata,
)
from cfsrepo.oci.limits import DEFAULT_LIMITS, Budget, Limits
from cfsrepo.progress import NoProgress
from cfsrepo.store.objects import object_path

INLINE_MAX = 64
SYMLINK_MAX = 4095
XATTR_NAME_MAX = 255
XATTR_VALUE_MAX = 65535

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

    def __init__(
        self,
        xattrs: XattrMode = XattrMode.OCI,
        *,
        limits: Limits = DEFAULT_LIMITS,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        """`warn` is told what a user should know of a layer that is no failure."""
        self.mode = xattrs
        self.dropped_xattrs = 0
        """How many `user.cfs.*` attributes were left out."""
        self._budget = Budget(limits)
        self._tree = LayeredTree(warn or NoProgress().message)
        # Parent paths as the archive spells them -> directory; emptied when one may lead elsewhere.
        self._parents: dict[bytes, Inode] = {}

    def add_layer(self, members: Iterable[tuple[Member, Content]], name: str = "layer") -> None:
        """Put the next layer (`name` in errors) on top. InputError: the layer makes no sense."""
        tree, budget = self._tree, self._budget
        tree.begin_layer(name)
        self._parents.clear()
        for member, content in members:
            budget.add_member(member, name)
            self._add(member, content)
            if tree.implied:
                budget.add_entries(tree.implied, name)
                tree.implied = 0
        tree.end_layer()

    def finish(self) -> Inode:
        """The tree, with root and /run as the rules say and link counts set."""
        self._parents.clear()  # what follows needs the memory
        root = self._tree.root
        entries = root.entries
        assert entries is not None
        usr = entries.get(b"usr")
        source = root if usr is None or not usr.is_dir else usr
        if source is not root:
            copy_metadata(source, root)
        run = entries.get(b"run")
        if run is not None and run.entries is not None:
            run.mtime_sec, run.mtime_nsec = source.mtime_sec, source.mtime_nsec
            run.entries.clear()
        _count_links(root)
        return root

    # -- one member -------------------------------------------------------------------------------

    def _add(self, member: Member, content: Content) -> None:
        path = member.path
        tree = self._tree
        head, _, name = path.rpartition(b"/")
        if name in _NO_NAME or len(path) > PATH_MAX:
            parts = tree.components(path)
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
            parent = tree.make_directory(tree.components(head), path)
            if parent is None:
                return
            self._parents[head] = parent
        if len(name) > NAME_MAX:
            raise tree.name_limit(name)
        entries = parent.entries
        assert entries is not None
        old = entries.get(name)
        if member.kind == stat.S_IFDIR and old is not None and old.entries is not None:
            self._set_metadata(old, member)
        else:
            inode = self._hard_link(member) if member.kind == HARDLINK else None
            if inode is None:
                inode = self._inode(member, content)
            if old is not None and (old.entries is not None or old.is_symlink):
                self._parents.clear()
            entries[name] = inode
        if not tree.lowest:
            tree.added(parent, name)

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
                    f"{self._tree.layer}: {printable(member.path)}: a symbolic link of "
                    f"{len(member.link)} bytes (at most {SYMLINK_MAX})"
                )
            inode.payload = member.link
            inode.size = len(member.link)
        else:
            inode.rdev = member.rdev
        return inode

    def _hard_link(self, member: Member) -> Inode:
        tree = self._tree
        parts = tree.components(member.link)
        inode = tree.find(parts, member.path) if parts else None
        if inode is None:
            raise tree.bad(
                member.path, f"a hard link to {printable(member.link)}, which does not exist"
            )
        if inode.entries is not None:
            raise tree.bad(
                member.path, f"a hard link to {printable(member.link)}, which is a directory"
            )
        return inode

    def _set_root(self, member: Member) -> None:
        if member.kind != stat.S_IFDIR:
            raise self._tree.bad(member.path, "the root must be a directory")
        self._set_metadata(self._tree.root, member)

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
                    f"{self._tree.layer}: {printable(member.path)}: extended attribute "
                    f"{printable(key[:64])} is over the limits (name {len(key)} of "
                    f"{XATTR_NAME_MAX} bytes, value {len(value)} of {XATTR_VALUE_MAX})"
                )
        return kept or None

    def _whiteout(self, head: bytes, name: bytes, path: bytes) -> None:
        tree = self._tree
        parent = tree.find_directory(tree.components(head), path)
        if name.startswith(AUFS) and name != OPAQUE:
            return
        target = name[len(WHITEOUT) :]
        if target in _NO_NAME:
            raise tree.bad(path, "a whiteout without a name")
        if parent is None or parent.entries is None or tree.lowest:
            return
        tree.drop_lower(parent, list(parent.entries) if name == OPAQUE else [target])
        self._parents.clear()


_NO_NAME = (b"", b".", b"..")


def _count_links(root: Inode) -> None:
    """Set `nlink` everywhere: names of a file, 2 + subdirectories of a directory."""
    seen: set[Inode] = set()
    for _, inode in walk(root):
        if inode.entries is not None:
            inode.nlink = 2 + sum(child.entries is not None for child in inode.entries.values())
        elif inode in seen:
            inode.nlink += 1
        else:
            seen.add(inode)
            inode.nlink = 1
