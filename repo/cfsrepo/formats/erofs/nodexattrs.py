"""The extended attributes of an image's inodes as the tree had them, for walks over all inodes.

What composefs added is told apart: `trusted.overlay.redirect` and `.metacopy` of a regular file are
its payload and digest, the escaped `whiteout` makes it one; other names of overlayfs are dropped,
escaped ones get their own name back. Most inodes of an image look alike, so what is known is kept:
shared xattrs by their place, and whole areas by their bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cfsrepo.errors import InputError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.reader import ErofsImage, InodeInfo

Pair = tuple[bytes, bytes]


class NodeXattrs(NamedTuple):
    """What the xattrs of an inode say."""

    xattrs: tuple[Pair, ...]  # of the tree: own ones first, then those shared with other inodes
    payload: bytes | None  # path of a regular file's object
    digest: bytes | None
    is_whiteout: bool


NO_XATTRS = NodeXattrs((), None, None, False)

_TOTAL_MAX = 0xFFFF  # bytes of names and values of one inode
_CACHE_MAX = 1 << 14  # entries of each cache
_CACHED_AREA = 128  # bytes of an area that is kept
_CACHED_VALUE = 4096  # bytes of a shared value that is kept
_TRUSTED = 4  # index of `trusted.` in layout.XATTR_PREFIXES

# What an xattr means: (kind, value, bytes of name and value).
_Meaning = tuple[int, Pair | bytes | None, int]
_HIDDEN, _TREE, _PAYLOAD, _DIGEST, _WHITEOUT = range(5)


def _entry_head(name: bytes, value_size: int) -> bytes:
    """An own entry of a `trusted.` xattr up to its value."""
    rest = name.removeprefix(layout.XATTR_PREFIXES[_TRUSTED])
    return layout.XATTR_ENTRY.pack(len(rest), _TRUSTED, value_size) + rest


# What nearly every file in an object store has as its own xattrs, where its digest is sha256: the
# two entries without the digest and the path, and the size of all.
_BEFORE_DIGEST = _entry_head(layout.OVERLAY_METACOPY, 36) + layout.metacopy_value(bytes(32))[:4]
_BEFORE_PATH = _entry_head(layout.OVERLAY_REDIRECT, 66) + b"/"
_PATH_SIZE = 65  # xx/rest
_DIGEST_AT = len(_BEFORE_DIGEST)
_DIGEST_END = _DIGEST_AT + 32
_PATH_AT = _DIGEST_END + len(_BEFORE_PATH)
_OBJECT_SIZE = (_PATH_AT + _PATH_SIZE + 3) & ~3


class XattrReader:
    """Reads the xattrs of the inodes of `image`. Raises InputError where they are damaged."""

    def __init__(self, image: ErofsImage) -> None:
        self._image = image
        self._names: dict[tuple[int, bytes], bytes | None] = {}
        # Of regular files, and of others: the same xattr can have another meaning.
        self._shared: tuple[dict[int, _Meaning], dict[int, _Meaning]] = ({}, {})
        self._areas: tuple[dict[bytes, NodeXattrs], dict[bytes, NodeXattrs]] = ({}, {})
        self._references: dict[bytes, tuple[Pair, ...]] = {}

    def of(self, info: InodeInfo, *, is_file: bool) -> NodeXattrs:
        """The xattrs of an inode; is_file: of a regular file."""
        if not info.xattr_icount:
            return NO_XATTRS
        end = info.xattr_offset + layout.xattr_area_size(info.xattr_icount)
        area = bytes(self._image.data[info.xattr_offset : end])
        if len(area) != end - info.xattr_offset:
            raise self._damaged(info)
        if len(area) <= _CACHED_AREA:
            areas = self._areas[is_file]
            found = areas.get(area)
            if found is None:
                found = self._read(info, area, is_file)
                if len(areas) < _CACHE_MAX:
                    areas[area] = found
            return found
        # A file's own digest and path are no use in a cache; the references before them are.
        own = layout.XATTR_BODY_SIZE + 4 * area[4]
        if (
            len(area) - own != _OBJECT_SIZE
            or not is_file
            or not area.startswith(_BEFORE_DIGEST, own)
            or not area.startswith(_BEFORE_PATH, own + _DIGEST_END)
        ):
            return self._read(info, area, is_file)
        references = area[4:own]
        xattrs = self._references.get(references)
        if xattrs is None:
            found = self._read(info, area, is_file)
            # A shared one that means something for the data would have to be looked at each time.
            if len(found.xattrs) == area[4] and len(self._references) < _CACHE_MAX:
                self._references[references] = found.xattrs
            return found
        path = area[own + _PATH_AT : own + _PATH_AT + _PATH_SIZE]
        if b"\0" in path:
            raise self._damaged(info)
        return NodeXattrs(xattrs, path, area[own + _DIGEST_AT : own + _DIGEST_END], False)

    def _read(self, info: InodeInfo, area: bytes, is_file: bool) -> NodeXattrs:
        """Take an area apart."""
        count, length = area[4], len(area)
        at = own = layout.XATTR_BODY_SIZE + 4 * count
        if own > length:
            raise self._damaged(info)
        meanings: list[_Meaning] = []
        while at < length:
            value = at + layout.XATTR_ENTRY_SIZE + area[at]
            end = value + (area[at + 2] | area[at + 3] << 8)
            if end > length:
                raise self._damaged(info)
            name = area[at + layout.XATTR_ENTRY_SIZE : value]
            meanings.append(self._meaning(info, area[at + 1], name, area[value:end], is_file))
            at = (end + 3) & ~3
        shared = self._shared[is_file]
        for reference in struct.unpack_from(f"<{count}I", area, layout.XATTR_BODY_SIZE):
            meaning = shared.get(reference)
            if meaning is None:
                meaning = self._meaning(info, *self._image.shared_xattr(info, reference), is_file)
                if len(shared) < _CACHE_MAX and meaning[2] <= _CACHED_VALUE:
                    shared[reference] = meaning
            meanings.append(meaning)
        if sum(size for _, _, size in meanings) > _TOTAL_MAX:
            raise InputError(f"{self._image.name}: inode {info.nid} has too many xattrs")
        values: list[Pair | bytes | None] = [None] * 5
        xattrs: list[Pair] = []
        is_whiteout = False
        for kind, what, _ in meanings:
            if kind == _TREE:
                assert isinstance(what, tuple)
                xattrs.append(what)
            elif kind == _WHITEOUT:
                is_whiteout = True
            else:
                values[kind] = what
        payload, digest = values[_PAYLOAD], values[_DIGEST]
        assert not isinstance(payload, tuple)
        assert not isinstance(digest, tuple)
        return NodeXattrs(tuple(xattrs), payload, digest, is_whiteout)

    def _meaning(
        self, info: InodeInfo, index: int, rest: bytes, value: bytes, is_file: bool
    ) -> _Meaning:
        size = len(rest) + len(value)
        if index == _TRUSTED and is_file:
            if rest == b"overlay.redirect":
                path = value[1:] if len(value) > 1 and value.startswith(b"/") else value
                if b"\0" in path:
                    raise self._damaged(info)
                return _PAYLOAD, path, size
            if rest == b"overlay.metacopy":
                return _DIGEST, layout.metacopy_digest(value), size
            if rest == b"overlay.overlay.whiteout":
                return _WHITEOUT, None, size
        key = index, rest
        try:
            name = self._names[key]
        except KeyError:
            if index >= len(layout.XATTR_PREFIXES):
                raise self._damaged(info) from None
            name = layout.tree_xattr_name(layout.XATTR_PREFIXES[index] + rest)
            if len(self._names) < _CACHE_MAX:
                self._names[key] = name
        return (_HIDDEN, None, size) if name is None else (_TREE, (name, value), size)

    def _damaged(self, info: InodeInfo) -> InputError:
        return InputError(f"{self._image.name}: inode {info.nid} has damaged xattrs")
