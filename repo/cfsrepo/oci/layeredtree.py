"""A tree that layers are put onto, one after the other: where a path leads, what a marker hides.

The tree knows what the current layer put where, because three rules depend on it:

- A whiteout or an opaque marker hides what the layers below put there, wherever it stands in its
  own layer.
- A path of a layer may go through symbolic links of the same layer. They are resolved within the
  root: `/` and `..` in a target never lead out of it. (containerd unpacks a layer in this way.)
- A symbolic link, or any other file, of a layer below is never gone through: a directory takes its
  place, as it does when overlayfs puts the directories of two layers together.
"""

from __future__ import annotations

from collections.abc import Callable

from cfsrepo.errors import InputError, LimitError, printable
from cfsrepo.formats.tree import NAME_MAX, Inode, directory

PATH_MAX = 4096

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS = b".wh..wh."  # other names that begin so are aufs's own bookkeeping: not part of the image

_NOTHING = (b"", b".")
_NO_NAMES: frozenset[bytes] = frozenset()
_NAMED_MAX = 8  # replaced files that the warning about a layer names


class LayeredTree:
    """The tree, and the names that the current layer put into it."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self.root = directory()
        self.layer = ""
        """What errors call the current layer."""
        self.implied = 0
        """How many directories were made that no entry named."""
        self._warn = warn
        self._layers = 0
        self._new_names: dict[Inode, set[bytes]] = {}  # of the current layer, by their directory
        self._replaced: list[str] = []  # files of layers below that a directory took the place of
        self._replaced_count = 0

    def begin_layer(self, name: str) -> None:
        """What follows is of the next layer, which errors call `name`."""
        self.layer = name
        self._layers += 1
        self._new_names.clear()

    def end_layer(self) -> None:
        """The layer is complete; warn of what its paths replaced."""
        if self._replaced:
            more = self._replaced_count - len(self._replaced)
            self._warn(
                f"{self.layer}: directories take the place of files of the layers below, which "
                f"the layer's paths lead through: {', '.join(self._replaced)}"
                + (f" and {more} more" if more else "")
            )
        self._replaced.clear()
        self._replaced_count = 0

    @property
    def lowest(self) -> bool:
        """Is the current layer the lowest one?"""
        return self._layers == 1

    def added(self, parent: Inode, name: bytes) -> None:
        """The current layer put `name` into the directory `parent`."""
        if self._layers > 1:
            names = self._new_names.get(parent)
            if names is None:
                names = self._new_names[parent] = set()
            names.add(name)

    def _is_new(self, parent: Inode, name: bytes) -> bool:
        return self._layers == 1 or name in self._new_names.get(parent, _NO_NAMES)

    # -- paths ------------------------------------------------------------------------------------

    def components(self, path: bytes) -> list[bytes]:
        """The names in `path`, without `.` and empty ones; `..` is refused."""
        if len(path) > PATH_MAX:
            raise self._path_limit(path)
        parts = [part for part in path.split(b"/") if part not in _NOTHING]
        if b".." in parts:
            raise self.bad(path, "'..' in a path")
        return parts

    def find(self, parts: list[bytes], path: bytes) -> Inode | None:
        """What is at `parts`, the last of them not followed where it is a link; None: nothing.

        `path` is the member's, for errors.
        """
        names = self._resolve(parts[:-1], path) + parts[-1:]
        inode: Inode | None = self.root
        for name in names:
            inode = None if inode is None or inode.entries is None else inode.entries.get(name)
        return inode

    def find_directory(self, parts: list[bytes], path: bytes) -> Inode | None:
        """The directory that `parts` lead to; None: there is none."""
        inode = self.root
        for name in self._resolve(parts, path):
            child = inode.entries.get(name) if inode.entries is not None else None
            if child is None:
                return None
            inode = child
        return None if inode.entries is None else inode

    def make_directory(self, parts: list[bytes], path: bytes) -> Inode | None:
        """The directory `parts`, made with what is missing above it; None: aufs's bookkeeping."""
        names = self._resolve(parts, path)
        parent = self.root
        for depth, name in enumerate(names):
            entries = parent.entries
            assert entries is not None
            child = entries.get(name)
            if child is None:
                if name.startswith(WHITEOUT):
                    if name.startswith(AUFS):
                        return None
                    raise self.bad(path, "it is below a whiteout")
                if len(name) > NAME_MAX:
                    raise self.name_limit(name)
                child = self._imply(entries, name)
            elif child.entries is None:
                if self._is_new(parent, name):
                    raise self.bad(path, "it is below something that is no directory")
                self._note_replaced(b"/".join(names[: depth + 1]), child)
                child = self._imply(entries, name)
            parent = child
        return parent

    def _imply(self, entries: dict[bytes, Inode], name: bytes) -> Inode:
        self.implied += 1
        made = entries[name] = directory()
        return made

    def _note_replaced(self, path: bytes, inode: Inode) -> None:
        self._replaced_count += 1
        if len(self._replaced) < _NAMED_MAX:
            target = f" -> {printable(inode.payload or b'')}" if inode.is_symlink else ""
            self._replaced.append(f"/{printable(path)}{target}")

    def _resolve(self, parts: list[bytes], path: bytes) -> list[bytes]:
        """The names that `parts` lead through when the current layer's links are followed.

        All of it happens in this tree, so nothing can lead out of it.
        """
        names: list[bytes] = []
        trail: list[Inode | None] = [self.root]  # the file at each of `names`
        pending = parts[::-1]
        followed = 0
        while pending:
            part = pending.pop()
            if part in _NOTHING:
                continue
            if part == b"..":
                if names:
                    names.pop()
                    trail.pop()
                continue
            above = trail[-1]
            child = above.entries.get(part) if above is not None and above.entries else None
            if child is None or not child.is_symlink or not self._is_new(above, part):  # type: ignore[arg-type]
                names.append(part)
                trail.append(child)
                continue
            target = child.payload or b""
            followed += 1 + len(target)
            if followed > PATH_MAX:
                raise self.bad(path, "the symbolic links in it lead in a circle, or too far")
            if target.startswith(b"/"):
                names.clear()
                del trail[1:]
            pending += target.split(b"/")[::-1]
        if followed and sum(map(len, names)) + len(names) > PATH_MAX:
            raise self._path_limit(b"/".join(names))
        return names

    # -- what a marker hides ----------------------------------------------------------------------

    def drop_lower(self, parent: Inode, names: list[bytes]) -> None:
        """Remove from `parent` what the layers below put under `names`, at any depth.

        What the current layer put there stays, wherever its marker stands in the archive. A
        directory of the layers below that is still needed as a parent loses its metadata.
        """
        # Each directory on the stack: itself, the names left to look at, its own name.
        stack = [(parent, names, b"")]
        while stack:
            inode, todo, own_name = stack[-1]
            entries = inode.entries
            assert entries is not None
            new_names = self._new_names.get(inode, _NO_NAMES)
            if todo:
                name = todo.pop()
                child = entries.get(name)
                if child is None:
                    continue
                if child.entries is not None:
                    stack.append((child, list(child.entries), name))
                elif name not in new_names:
                    del entries[name]
                continue
            stack.pop()
            if not stack:
                return
            above = stack[-1][0]
            assert above.entries is not None
            if own_name in self._new_names.get(above, _NO_NAMES):
                continue
            if entries:
                copy_metadata(directory(), inode)
            else:
                del above.entries[own_name]

    # -- errors -----------------------------------------------------------------------------------

    def bad(self, path: bytes, what: str) -> InputError:
        """The error for the member `path` of the current layer."""
        return InputError(f"{self.layer}: {printable(path[:PATH_MAX])}: {what}")

    def name_limit(self, name: bytes) -> LimitError:
        """The error for a name that no file system takes."""
        return LimitError(
            f"{self.layer}: a name of {len(name)} bytes (at most {NAME_MAX}): "
            f"{printable(name[:64])}..."
        )

    def _path_limit(self, path: bytes) -> LimitError:
        return LimitError(
            f"{self.layer}: a path of {len(path)} bytes (at most {PATH_MAX}): "
            f"{printable(path[:64])}..."
        )


def copy_metadata(source: Inode, target: Inode) -> None:
    """Give the directory `target` the metadata of the directory `source`."""
    target.mode = source.mode
    target.uid, target.gid = source.uid, source.gid
    target.mtime_sec, target.mtime_nsec = source.mtime_sec, source.mtime_nsec
    target.xattrs = None if source.xattrs is None else dict(source.xattrs)
