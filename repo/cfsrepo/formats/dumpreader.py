"""composefs-dump(5): a file system tree as text, one line a name.

    PATH SIZE MODE NLINK UID GID RDEV MTIME PAYLOAD CONTENT DIGEST [KEY=VALUE ...]

Fields are separated by exactly one space and escaped as `cfsrepo.formats.escape` says; `-` alone
says that PAYLOAD, CONTENT or DIGEST is unset. Numbers are decimal but MODE, which is octal and has
the file type; MTIME is `seconds.nanoseconds`, the seconds may be negative. PAYLOAD is a symlink's
target or the path of a regular file's object, CONTENT the bytes of a file that the image itself
holds. The first line is the root `/`, and a directory comes before what is in it.

`@` in front of MODE makes a hard link: only PATH, MODE and PAYLOAD count, and PAYLOAD is the path
of the inode, which may come later or be a hard link itself.

Reading is strict where the C tool is lax by accident (numbers out of range, malformed digests, hard
links to directories) and accepts what it accepts on purpose: a missing newline at the end,
one trailing space, PATH without its leading slash, a line that ends early where the rest does not
matter, bits of MODE above the 16th.

Writing is `cfsrepo.formats.dumpwriter`'s.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import BinaryIO

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.escape import unescape, unescape_optional
from cfsrepo.formats.tree import Inode, Xattrs, paused_gc

LINE_MAX = 8 << 20  # bytes; longer than the longest of paths, all of it escaped
XATTR_TEXT_MAX = 0xFFFF  # bytes of all KEY=VALUE of a line, escaped

_CHUNK = 1 << 20
_CACHE_MAX = 1 << 15  # entries of each cache of parsed fields
_FIELDS = 11
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_U16 = 0xFFFF
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_FIELD_NAMES = (
    "PATH", "SIZE", "MODE", "NLINK", "UID", "GID", "RDEV", "MTIME", "PAYLOAD", "CONTENT", "DIGEST",
)  # fmt: skip


def read_dump(stream: BinaryIO, name: str = "-", *, strict: bool = False) -> Inode:
    """The tree that the dump in `stream` describes.

    `name` stands for the stream in messages. `strict` refuses as well what the C tool refuses with
    CFS_PARSE_STRICT set: no newline at the end, a symlink's SIZE that is not its target's length,
    a symlink with CONTENT, RDEV of anything but a device.

    Raises InputError (LimitError for what is only too large) with the file, the line's number and
    the reason.
    """
    reader = _Reader(strict)
    number = 0
    try:
        with paused_gc():
            for number, line in enumerate(_lines(stream, strict), 1):
                reader.line(line, number)
        number = 0
        return reader.finish()
    except _BadLine as error:
        where = error.number or number
        kind = LimitError if error.limit else InputError
        raise kind(f"{name}:{where}: {error}" if where else f"{name}: {error}") from None


class _BadLine(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with a line; `number` when it is not the current one."""

    def __init__(self, reason: str, *, number: int = 0, limit: bool = False) -> None:
        super().__init__(reason)
        self.number = number
        self.limit = limit


def _lines(stream: BinaryIO, strict: bool) -> Iterator[bytes]:
    """The lines of `stream`, without their newlines, in bounded memory."""
    rest = b""
    count = 0
    while chunk := stream.read(_CHUNK):
        lines = chunk.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()
        yield from lines
        count += len(lines)
        if len(rest) > LINE_MAX:
            # The number would be that of the line before: take the long one for its own line.
            yield rest[: LINE_MAX + 1]
    if rest:
        if strict:
            raise _BadLine("no newline at the end of the last line", number=count + 1)
        yield rest


def _text(data: bytes) -> str:
    """A field for a message: short, whatever it holds."""
    text = data[:60].decode("ascii", "backslashreplace")
    return repr(text + "..." if len(data) > 60 else text)


def _number(field: bytes, what: str, limit: int) -> int:
    if not field.isdigit():
        raise _BadLine(f"{what} {_text(field)} is not a decimal number")
    value = int(field) if len(field) <= 20 else limit + 1
    if value > limit:
        raise _BadLine(f"{what} {_text(field)} is out of range", limit=True)
    return value


def _unescaped(
    payload: bytes, content: bytes, digest: bytes
) -> tuple[bytes | None, bytes | None, bytes]:
    try:
        return unescape_optional(payload), unescape_optional(content), unescape(digest)
    except ValueError as error:
        raise _BadLine(str(error)) from None


_Owner = tuple[int, int, int, int]  # NLINK, UID, GID, RDEV


class _Reader:
    """The tree so far. Every line comes through `line`; caches keep what lines have in common."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._root: Inode | None = None
        self._parents: dict[bytes, Inode] = {}  # path without trailing slash -> directory
        self._links: list[tuple[Inode, bytes, bytes, int]] = []
        self._owners: dict[tuple[bytes, bytes, bytes, bytes], _Owner] = {}
        self._modes: dict[bytes, tuple[int, bool]] = {}
        self._mtimes: dict[bytes, tuple[int, int]] = {}
        self._xattrs: dict[bytes, Xattrs] = {}

    # --- one line --------------------------------------------------------------------------------

    def line(self, line: bytes, number: int) -> None:
        """Add the name that `line`, the file's `number`th, describes."""
        fields = line.split(b" ", _FIELDS)
        if len(fields) < _FIELDS:
            self._check_short(line, fields)
            fields += [b""] * (_FIELDS - len(fields))
        path, size_, mode_, nlink_, uid_, gid_, rdev_, mtime_, payload_, content_, digest_ = fields[
            :_FIELDS
        ]
        if b"\0" in line or len(line) > LINE_MAX:
            raise self._bad_bytes(line)
        mode_and_link = self._modes.get(mode_)
        if mode_and_link is None:
            mode_and_link = self._mode(mode_)
        mode, is_link = mode_and_link
        if is_link:
            self._hard_link(path, mode, payload_, number)
            return
        owner = self._owners.get((nlink_, uid_, gid_, rdev_))
        if owner is None:
            owner = self._owner(nlink_, uid_, gid_, rdev_)
        mtime = self._mtimes.get(mtime_)
        if mtime is None:
            mtime = self._mtime(mtime_)
        plain = len(size_) < 20 and size_.isdigit()
        size = int(size_) if plain else _number(size_, "SIZE", _U64)
        if b"\\" in line:
            payload, content, digest_ = _unescaped(payload_, content_, digest_)
        else:
            payload = None if payload_ == b"-" else payload_
            content = None if content_ == b"-" else content_
        if payload is not None and (len(payload) > layout.SYMLINK_MAX or b"\0" in payload):
            raise self._bad_payload(payload)
        if content is not None:
            self._check_content(content, size)
        digest = None if digest_ == b"-" else self._digest(digest_, len(fields) > _FIELDS)

        inode = Inode(mode)
        inode.nlink, inode.uid, inode.gid, rdev = owner
        inode.mtime_sec, inode.mtime_nsec = mtime
        inode.size = size
        kind = mode & 0o170000
        if kind == stat.S_IFREG:
            self._set_file(inode, payload, content, digest)
        elif kind == stat.S_IFDIR:
            inode.entries = {}
        elif kind == stat.S_IFLNK:
            self._set_symlink(inode, payload, content)
        elif kind in _DEVICES:
            inode.rdev = rdev
        if rdev and self._strict and kind not in _DEVICES:
            raise _BadLine("RDEV is set, but this is not a device")

        if len(fields) > _FIELDS and fields[_FIELDS]:
            template = self._xattrs.get(fields[_FIELDS])
            inode.xattrs = (template or self._parse_xattrs(fields[_FIELDS])).copy()
        self._add(path, inode)

    # --- by file type ----------------------------------------------------------------------------

    def _set_file(
        self, inode: Inode, payload: bytes | None, content: bytes | None, digest: bytes | None
    ) -> None:
        if content:
            inode.content = content
        elif inode.size:
            inode.payload = payload or None
            inode.digest = digest
            if inode.size > layout.FILE_SIZE_MAX:
                raise _BadLine(
                    f"SIZE {inode.size} is over {layout.FILE_SIZE_MAX}, the most for a file "
                    "without CONTENT",
                    limit=True,
                )
            if digest == b"":
                raise _BadLine("DIGEST is empty (`-` says that there is none)")

    def _set_symlink(self, inode: Inode, target: bytes | None, content: bytes | None) -> None:
        if not target:
            raise _BadLine("a symlink needs a target in PAYLOAD")
        if self._strict and (inode.size != len(target) or content):
            raise _BadLine("SIZE of a symlink is not its target's length, or it has CONTENT")
        inode.payload = target
        inode.size = len(target)

    # --- fields ----------------------------------------------------------------------------------

    def _bad_bytes(self, line: bytes) -> _BadLine:
        if b"\0" in line:
            return _BadLine(f"NUL byte at position {line.index(0) + 1}")
        return _BadLine(f"line longer than {LINE_MAX} bytes", limit=True)

    def _check_short(self, line: bytes, fields: list[bytes]) -> None:
        """A line that ends before DIGEST: fine where what is missing does not matter."""
        if not line:
            raise _BadLine("empty line")
        if len(fields) < 3 or (len(fields) < 8 and not fields[2].startswith(b"@")):
            raise _BadLine(f"line ends before {_FIELD_NAMES[len(fields)]}")

    def _owner(self, nlink: bytes, uid: bytes, gid: bytes, rdev: bytes) -> _Owner:
        owner = (
            _number(nlink, "NLINK", _U32),
            _number(uid, "UID", _U32),
            _number(gid, "GID", _U32),
            _number(rdev, "RDEV", _U32),
        )
        if len(self._owners) < _CACHE_MAX:
            self._owners[nlink, uid, gid, rdev] = owner
        return owner

    def _mode(self, field: bytes) -> tuple[int, bool]:
        is_link = field.startswith(b"@")
        digits = field[1:] if is_link else field
        if not digits or len(digits) > 22 or digits.strip(b"01234567"):
            raise _BadLine(f"MODE {_text(field)} is not an octal number")
        mode = int(digits, 8) & _U16
        if mode & 0o170000 not in layout.FILE_TYPES:
            raise _BadLine(f"MODE {_text(field)} has no known file type")
        if len(self._modes) < _CACHE_MAX:
            self._modes[field] = mode, is_link
        return mode, is_link

    def _mtime(self, field: bytes) -> tuple[int, int]:
        seconds, dot, nanoseconds = field.partition(b".")
        negative = seconds.startswith(b"-")
        if not dot:
            raise _BadLine(f"MTIME {_text(field)} is not seconds.nanoseconds")
        sec = _number(seconds[1:] if negative else seconds, "MTIME", (1 << 63) - (not negative))
        nsec = _number(nanoseconds, "MTIME", _U32)
        mtime = -sec if negative else sec, nsec
        if len(self._mtimes) < _CACHE_MAX:
            self._mtimes[field] = mtime
        return mtime

    def _bad_payload(self, payload: bytes) -> _BadLine:
        if b"\0" in payload:
            return _BadLine("NUL byte in PAYLOAD")
        return _BadLine(f"PAYLOAD of {len(payload)} bytes is over {layout.SYMLINK_MAX}", limit=True)

    def _check_content(self, content: bytes, size: int) -> None:
        if len(content) != size:
            raise _BadLine(f"CONTENT has {len(content)} bytes, SIZE says {size}")
        if size > layout.CONTENT_MAX:
            raise _BadLine(f"CONTENT of {size} bytes is over {layout.CONTENT_MAX}", limit=True)

    def _digest(self, word: bytes, followed: bool) -> bytes:
        if not word and not followed:
            return b""  # the line ended early; refused where it matters
        if len(word) in (64, 128):
            try:
                digest = bytes.fromhex(word.decode("ascii"))
            except ValueError:
                digest = b""
            if len(digest) * 2 == len(word):
                return digest
        raise _BadLine(f"DIGEST {_text(word)} is not 64 (or 128) hex digits")

    def _parse_xattrs(self, text: bytes) -> Xattrs:
        if len(text) > XATTR_TEXT_MAX:
            raise _BadLine(
                f"extended attributes of {len(text)} bytes of text, over {XATTR_TEXT_MAX}",
                limit=True,
            )
        words = text.split(b" ")
        if words[-1] == b"":
            words.pop()
        xattrs: Xattrs = {}
        for word in words:
            key_, equal, value_ = word.partition(b"=")
            if not equal:
                raise _BadLine(f"extended attribute {_text(word)} without `=`")
            try:
                key, value = unescape(key_), unescape(value_)
            except ValueError as error:
                raise _BadLine(str(error)) from None
            if not key or b"\0" in key:
                raise _BadLine(f"extended attribute {_text(word)} has no usable name")
            if len(key) > layout.XATTR_NAME_MAX:
                raise _BadLine(
                    f"name of an extended attribute is over {layout.XATTR_NAME_MAX} bytes",
                    limit=True,
                )
            xattrs[key] = value
        if layout.xattrs_size(xattrs) > layout.XATTR_AREA_MAX:
            raise _BadLine(
                f"extended attributes of {layout.xattrs_size(xattrs)} bytes, over "
                f"{layout.XATTR_AREA_MAX}",
                limit=True,
            )
        if len(self._xattrs) < _CACHE_MAX:
            self._xattrs[text] = xattrs
        return xattrs

    # --- the tree --------------------------------------------------------------------------------

    def _add(self, path_: bytes, inode: Inode) -> tuple[Inode, bytes]:
        """Put `inode` into the tree; returns its directory and name (the root: itself)."""
        if b"\\" in path_:
            try:
                path = unescape(path_)
            except ValueError as error:
                raise _BadLine(str(error)) from None
            if b"\0" in path:
                raise _BadLine("NUL byte in PATH")
        else:
            path = path_
        if len(path) > layout.PATH_MAX:
            raise _BadLine(f"PATH of {len(path)} bytes, over {layout.PATH_MAX}", limit=True)
        parent_path, slash, name = path.rpartition(b"/")
        if not slash or not parent_path or not name or self._root is None:
            if path == b"/":
                return self._set_root(inode)
            if self._root is None:
                raise _BadLine("the first line must be the root directory `/`")
            if not path:
                raise _BadLine("PATH is empty")
        parent = self._parents.get(parent_path)
        if parent is None:
            parent = self._find_parent(parent_path, path_)
        entries = parent.entries
        assert entries is not None
        if name in entries:
            raise _BadLine(f"{_text(path_)} is there already")
        if not name or len(name) > layout.NAME_MAX or name in (b".", b".."):
            if len(name) > layout.NAME_MAX:
                raise _BadLine(f"name of {len(name)} bytes, over {layout.NAME_MAX}", limit=True)
            raise _BadLine(f"PATH {_text(path_)} does not end in a file name")
        entries[name] = inode
        if inode.entries is not None and len(path) <= 4096:
            if len(self._parents) > _CACHE_MAX:
                self._parents.clear()
            self._parents[path] = inode
        return parent, name

    def _set_root(self, inode: Inode) -> tuple[Inode, bytes]:
        if inode.entries is None:
            raise _BadLine("the root must be a directory")
        if self._root is not None:
            raise _BadLine("the root `/` is there already")
        self._root = inode
        return inode, b""

    def _find_parent(self, path: bytes, shown: bytes) -> Inode:
        inode = self._root
        assert inode is not None
        for name in path.split(b"/"):
            if not name:
                continue
            found = inode.entries.get(name) if inode.entries is not None else None
            if found is None:
                raise _BadLine(f"the directory of {_text(shown)} is missing")
            inode = found
        if inode.entries is None:
            raise _BadLine(f"the parent of {_text(shown)} is not a directory")
        if len(path) <= 4096:
            self._parents[path] = inode
        return inode

    # --- hard links ------------------------------------------------------------------------------

    def _hard_link(self, path: bytes, mode: int, payload: bytes, number: int) -> None:
        """Reserve the name; what it leads to is known when all lines are read."""
        if stat.S_ISDIR(mode):
            raise _BadLine("a directory cannot be a hard link")
        if path == b"/":
            raise _BadLine("the root must be a directory")
        try:
            target = unescape_optional(payload)
        except ValueError as error:
            raise _BadLine(str(error)) from None
        if target is None:
            raise _BadLine("a hard link needs the path of its inode in PAYLOAD")
        directory, name = self._add(path, _Link(target, number))
        self._links.append((directory, name, target, number))

    def _lookup(self, path: bytes) -> tuple[Inode, Inode, bytes] | None:
        """(inode, its directory, its name) at `path`; None where nothing is."""
        inode = directory = self._root
        assert inode is not None
        assert directory is not None
        last = b""
        for name in path.split(b"/"):
            if not name:
                continue
            found = inode.entries.get(name) if inode.entries is not None else None
            if found is None:
                return None
            inode, directory, last = found, inode, name
        return inode, directory, last

    def finish(self) -> Inode:
        """Resolve the hard links; the root of the tree."""
        if self._root is None:
            raise _BadLine("no files in the dump")
        for directory, name, _target, number in self._links:
            assert directory.entries is not None
            link = directory.entries[name]
            chain: list[_Link] = []
            carrier: tuple[Inode, bytes] | None = None
            while isinstance(link, _Link):
                if link.resolved is not None:  # and then it knows its home already
                    link, carrier = link.resolved, None
                    break
                if link.visited == number:
                    raise _BadLine("the hard link leads to itself", number=number)
                link.visited = number
                chain.append(link)
                found = self._lookup(link.target)
                if found is None:
                    reason = f"nothing at {_text(link.target)} for the hard link"
                    raise _BadLine(reason, number=link.number)
                link, carrier = found[0], found[1:]
            if link.entries is not None:
                reason = f"the hard link to {_text(chain[-1].target)} leads to a directory"
                raise _BadLine(reason, number=number)
            if carrier is not None:
                link.home = carrier
            for passed in chain:
                passed.resolved = link
        for directory, name, _target, _number in self._links:
            assert directory.entries is not None
            link = directory.entries[name]
            assert isinstance(link, _Link)
            assert link.resolved is not None
            directory.entries[name] = link.resolved
        return self._root


class _Link(Inode):
    """Stands for a hard link until all lines are read."""

    __slots__ = ("number", "resolved", "target", "visited")

    def __init__(self, target: bytes, number: int) -> None:
        super().__init__(stat.S_IFREG)
        self.target = target
        self.number = number
        self.visited = 0
        self.resolved: Inode | None = None
