"""The xattr areas of a plan's inodes, as bytes.

An area stands behind its inode: a header with the filter of names, references to shared xattrs, own
entries. Many inodes have the same area. Files whose object nobody else has differ in no more than
digest and path: they have a template in common, which packs inode and area in one go.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import chain
from struct import Struct

from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.plan import Pair, Plan, entry_bytes, entry_size, has_object


class Area:
    """A complete area, of one inode or of many, or none at all.

    `compact` and `extended` pack the inode's fields, then the area's `pieces`.
    """

    __slots__ = ("compact", "extended", "icount", "own", "pieces", "shared", "size")

    def __init__(self, shared: list[Pair], own: list[Pair]) -> None:
        self.shared = shared
        self.own = own
        self.size = 0  # bytes
        if shared or own:
            self.size = layout.XATTR_BODY_SIZE + 4 * len(shared) + sum(map(entry_size, own))
        self.icount = (self.size - layout.XATTR_BODY_SIZE + 4) >> 2 if self.size else 0
        self.compact, self.extended = layout.INODE_COMPACT, layout.INODE_EXTENDED
        self.pieces: tuple[bytes, ...] = ()

    def finish(self, head: bytes) -> None:
        """Make the area's bytes, which begin with `head`."""
        data = head + b"".join(map(entry_bytes, self.own))
        self.pieces = (data,)
        self.compact, self.extended = _packers(len(data))


class AreaTemplate(Area):
    """An area without the digest and the path of an object; both have always the same length.

    Its pieces are (before, digest, between, path, after).
    """

    __slots__ = ("after", "before", "between")

    def __init__(self, shared: list[Pair], own: list[Pair]) -> None:
        super().__init__(shared, own)  # `own` has the digest and path of the first such file
        self.before = self.between = self.after = b""

    def finish(self, head: bytes) -> None:
        """Cut the area's bytes, which begin with `head`, where digest and path go."""
        names = [key for key, _ in self.own]
        at_digest = names.index(layout.OVERLAY_METACOPY)
        at_path = names.index(layout.OVERLAY_REDIRECT)
        digest_size = len(self.own[at_digest][1]) - layout.METACOPY.size
        path_size = len(self.own[at_path][1]) - 1
        entries = list(map(entry_bytes, self.own))
        redirect = entries[at_path]
        lead = layout.XATTR_ENTRY_SIZE + len(layout.split_xattr_name(names[at_path])[1]) + 1
        # A metacopy entry with a digest needs no padding: it ends with the digest.
        self.before = head + b"".join(entries[: at_digest + 1])[:-digest_size]
        self.between = b"".join(entries[at_digest + 1 : at_path]) + redirect[:lead]
        self.after = redirect[lead + path_size :] + b"".join(entries[at_path + 1 :])
        self.compact, self.extended = _packers(
            len(self.before), digest_size, len(self.between), path_size, len(self.after)
        )


_NO_AREA = Area([], [])


@lru_cache(maxsize=1024)
def _packers(*sizes: int) -> tuple[Struct, Struct]:
    """Packers of a compact and of an extended inode with pieces of these sizes behind."""
    pieces = "".join(f"{size}s" for size in sizes)
    return Struct(layout.INODE_COMPACT.format + pieces), Struct(
        layout.INODE_EXTENDED.format + pieces
    )


class XattrAreas:
    """The areas of all inodes of `plan`: sizes at once, bytes after `finish`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._areas: dict[object, Area] = {}
        self.of_inode: list[Area] = []
        self._assign()

    def _assign(self) -> None:
        plan, areas, result = self._plan, self._areas, self.of_inode
        shared_digests, shared_redirects = plan.shared_digests, plan.shared_redirects
        key: object
        for inode, xattrs in zip(plan.inodes, plan.xattrs, strict=True):
            is_template = False
            if has_object(inode):
                digest, payload = inode.digest, inode.payload
                if (
                    payload
                    and digest
                    and not (digest in shared_digests or payload in shared_redirects)
                ):
                    is_template = True
                    key = (xattrs, len(digest), len(payload))
                else:
                    key = (xattrs, digest, payload)
            elif xattrs is None:
                result.append(_NO_AREA)
                continue
            else:
                key = xattrs
            area = areas.get(key)
            if area is None:
                make = AreaTemplate if is_template else Area
                area = areas[key] = make(*plan.split(plan.all_pairs(xattrs, inode)))
            result.append(area)

    def finish(self, shared_base: int) -> None:
        """Make the areas' bytes; `shared_base`: where in its block the shared table begins."""
        for area in self._areas.values():
            area.finish(self._head(area, shared_base))

    def _head(self, area: Area, shared_base: int) -> bytes:
        """The body header of an area with its references into the shared table."""
        names = 0
        for key, _ in chain(area.shared, area.own):
            names |= layout.xattr_filter_bit(key)
        offsets = self._plan.shared_offsets
        head = layout.XATTR_BODY.pack(layout.XATTR_FILTER_ALL & ~names, len(area.shared))
        references = [(shared_base + offsets[pair]) // 4 for pair in area.shared]
        return head + struct.pack(f"<{len(references)}I", *references)
