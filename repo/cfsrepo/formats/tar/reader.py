"""Reader of tar archives: bytes in, members out; it opens nothing and writes nothing.

`TarParser` turns header blocks into `Member`s without I/O: the caller owns the bytes, the contents
never pass through it. `cfsrepo.formats.tar.stream` drives it over chunks of any size (a
decompressor, a file), `cfsrepo.oci.layers` over a split stream.

Understood: v7, ustar (POSIX.1-1988), GNU (long names and links, base-256 numbers, old sparse
files), pax (POSIX.1-2001: path, linkpath, size, uid, gid, mtime with fractions and before 1970;
extended attributes as `SCHILY.xattr.*`, `LIBARCHIVE.xattr.*`, `RHT.security.selinux`; GNU sparse
formats 0.0, 0.1 and 1.0). References: pax in POSIX.1-2017; "Basic Tar Format" and "Sparse Formats"
in GNU tar's manual; tar(5) of libarchive.

Where implementations differ, a member means here what it means to the container runtimes:

- Global pax headers are checked and then ignored (Go's archive/tar and cfsctl do the same).
- Links, devices, FIFOs and directories have no data, whatever their size field says.
- A file type of NUL with a name that ends in `/` is a directory (v7 had no other way to say it).
- One block of zeros that another block of zeros does not follow is an error: GNU tar stops there,
  others go on, so contents could hide behind it. The end of the input counts as a second block,
  and an archive may end without any.

Everything is hostile until checked. A damaged header, a number out of range, a record that lies
about its length is `InputError`; over a bound of this module is `LimitError`. Memory is bounded by
`METADATA_MAX` for each member, whatever the archive's size.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import KW_ONLY, dataclass

from cfsrepo.errors import InputError, LimitError, printable
from cfsrepo.formats.tar import headerfields
from cfsrepo.formats.tar.headerfields import BLOCK, FieldError, PaxSparse, SparseMap

METADATA_MAX = 1 << 20  # long names, pax records and sparse maps of one member, in bytes
PENDING_MAX = 16  # extension headers in front of one member
SIZE_MAX = (1 << 63) - 1

HARDLINK = 0  # a `Member.kind` beside the S_IF* values

_HEADER = struct.Struct("100s 24s 12s 12s 8s c 100s 8s 64x 8s 8s 155s 12x")
_KINDS = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"1": HARDLINK,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_EXTENSIONS = {b"L": "GNU long name", b"K": "GNU long link", b"x": "pax header"}
_SPARSE = b"S"
_TERMINATORS = b"\0 "
_CACHE_MAX = 4096
_GLOBAL = b"g"


@dataclass(slots=True)
class Member:
    """One member of an archive: its metadata; never its contents."""

    kind: int
    """An S_IF* value, or `HARDLINK`."""
    path: bytes
    """As the archive has it, not normalised, but without slashes at its end."""
    _: KW_ONLY
    link: bytes = b""
    """Target of a symbolic or hard link, as the archive has it."""
    mode: int = 0
    """Permission bits (07777)."""
    uid: int = 0
    gid: int = 0
    mtime_sec: int = 0
    mtime_nsec: int = 0
    rdev: int = 0
    """In the encoding of makedev(3)."""
    size: int = 0
    """Size of the file, in bytes."""
    stored: int = 0
    """Bytes that follow in the archive, before padding to a block: fewer for a sparse file."""
    sparse: SparseMap | None = None
    """The parts of a sparse file that are stored, one after the other."""
    xattrs: dict[bytes, bytes] | None = None

    @property
    def padding(self) -> int:
        """Bytes between the end of the data and the next header."""
        return -self.stored % BLOCK


class TarParser:
    """The state machine over header blocks.

    `parse(buffer, start)` looks at the header (with its extension headers) that begins at `start`
    and returns the member, having set `position` to the first byte after it; the caller takes the
    `stored` + `padding` bytes that follow out of its input and calls again. None means either
    `ended` (the end marker was met) or that `buffer` is too short: it must hold `need` bytes from
    `start` on.
    """

    def __init__(self, name: str, *, only_schily: bool = False) -> None:
        """`name` is for error messages. `only_schily`: see `headerfields.pax_xattr`."""
        self._name = name
        self._only_schily = only_schily
        # What fields repeat from member to member is kept by their bytes: quicker, and one number
        # in memory for all members of an image.
        self._owners: dict[bytes, tuple[int, int, int]] = {}  # -> mode, uid, gid
        self._times: dict[bytes, int] = {}
        self.position = 0
        self.need = BLOCK
        self.ended = False
        self.member_count = 0

    def parse(self, buffer: bytes, start: int) -> Member | None:
        """The member at `start`, or None: see the class."""
        if start + BLOCK > len(buffer):
            self.need = BLOCK
            return None
        try:
            member = self._parse(buffer, start)
        except FieldError as error:
            kind = LimitError if error.limit else InputError
            raise kind(f"{self._name}: member {self.member_count + 1}: {error}") from error
        except ValueError as error:
            raise InputError(
                f"{self._name}: member {self.member_count + 1}: a number is not octal"
            ) from error
        if member is not None:
            self.member_count += 1
        return member

    def at_end(self, buffer: bytes, start: int) -> None:
        """The input ended with `buffer[start:]` left over; InputError unless that is an end."""
        rest = buffer[start:]
        if rest and (len(rest) != BLOCK or any(rest)):
            raise InputError(f"{self._name}: the archive is cut off in a header")
        self.ended = True

    def _parse(self, buffer: bytes, start: int) -> Member | None:
        """The member without extension headers, the most common; hands the others on."""
        name, owner, raw_size, raw_mtime, checksum, flag, link, magic, major, minor, prefix = (
            _HEADER.unpack_from(buffer, start)
        )
        kind = _KINDS.get(flag)
        if kind is None or flag == _SPARSE:
            return self._parse_extended(buffer, start)
        if not headerfields.checksum_matches(buffer, start, checksum):
            self._end_or_damage(buffer, start)
            return None
        mode, uid, gid = self._owners.get(owner) or self._parse_owner(owner)
        # isdigit() keeps out what int() would take beside digits (signs, underscores, spaces).
        if raw_size[:11].isdigit() and raw_size[11] in _TERMINATORS:
            size = int(raw_size[:11], 8)
        else:
            size = headerfields.number(raw_size, "size")
        mtime = self._times.get(raw_mtime)
        if mtime is None:
            mtime = self._parse_time(raw_mtime)
        path = name.partition(b"\0")[0]
        if prefix[0] and magic[:6] == b"ustar\0":
            path = prefix.partition(b"\0")[0] + b"/" + path
        self.position = start + BLOCK
        rdev = 0
        if kind == stat.S_IFREG:
            link = b""
        elif kind == stat.S_IFCHR or kind == stat.S_IFBLK:
            link, rdev = b"", _device(magic, major, minor)
        else:
            link = link.partition(b"\0")[0]
        return self._checked(
            Member(
                kind,
                path,
                link=link,
                mode=mode,
                uid=uid,
                gid=gid,
                mtime_sec=mtime,
                rdev=rdev,
                size=size,
            ),
            flag,
        )

    def _checked(self, member: Member, flag: bytes) -> Member:
        """`member`, whose `size` is that of its header, completed; the checks for all types."""
        path = member.path
        if path[-1:] == b"/":
            if flag == b"\0":
                member.kind = stat.S_IFDIR
            path = member.path = path.rstrip(b"/") or b"/"
        if not path:
            raise FieldError("it has no name")
        if not -(1 << 63) <= member.mtime_sec <= SIZE_MAX:
            raise FieldError("modification time out of range", limit=True)
        kind = member.kind
        if kind == stat.S_IFREG:
            if not 0 <= member.size <= SIZE_MAX:
                raise FieldError("size out of range")
            member.stored = member.size
        else:
            member.size = 0
            if not member.link and (kind == HARDLINK or kind == stat.S_IFLNK):
                raise FieldError(f"the link {printable(path)} has no target")
        return member

    def _parse_owner(self, raw: bytes) -> tuple[int, int, int]:
        """Mode, uid and gid, from the 24 bytes of their fields."""
        ids = (
            headerfields.number(raw[:8], "mode") & 0o7777,
            _id(headerfields.number(raw[8:16], "uid"), "uid"),
            _id(headerfields.number(raw[16:24], "gid"), "gid"),
        )
        if len(self._owners) >= _CACHE_MAX:
            self._owners.clear()
        self._owners[raw] = ids
        return ids

    def _parse_time(self, raw: bytes) -> int:
        time = headerfields.number(raw, "mtime")
        if len(self._times) >= _CACHE_MAX:
            self._times.clear()
        self._times[raw] = time
        return time

    def _end_or_damage(self, buffer: bytes, start: int) -> None:
        """The block at `start` has a wrong checksum: the end marker, or damage."""
        if any(buffer[start : start + BLOCK]):
            raise FieldError("its header has a wrong checksum")
        if start + 2 * BLOCK > len(buffer):
            self.need = 2 * BLOCK
            return
        if any(buffer[start + BLOCK : start + 2 * BLOCK]):
            raise FieldError("a single block of zeros stands in front of it")
        self.position = start + 2 * BLOCK
        self.ended = True

    def _parse_extended(self, buffer: bytes, start: int) -> Member | None:
        """A member with extension headers. Nothing is kept when the buffer turns out too short:
        the caller comes again with more."""
        at = start
        found: dict[bytes, bytes] = {}
        metadata = pending = 0
        while True:
            if at + BLOCK > len(buffer):
                self.need = at + BLOCK - start
                return None
            fields = _HEADER.unpack_from(buffer, at)
            raw_size, checksum, flag, magic = fields[2], fields[4], fields[5], fields[7]
            if not headerfields.checksum_matches(buffer, at, checksum):
                if at > start:
                    raise FieldError("its extension headers are not followed by its header")
                self._end_or_damage(buffer, at)
                return None
            if flag != _GLOBAL and (flag not in _EXTENSIONS or magic[:5] != b"ustar"):
                break
            size = headerfields.number(raw_size, "size")
            metadata += size
            pending += 1
            if size < 0 or metadata > METADATA_MAX or pending > PENDING_MAX:
                raise FieldError(
                    f"it has more than {METADATA_MAX} bytes or {PENDING_MAX} headers of metadata",
                    limit=True,
                )
            begin, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
            if at > len(buffer):
                self.need = at - start
                return None
            data = buffer[begin : begin + size]
            if flag == _GLOBAL:
                headerfields.pax_records(data)
            elif flag in found:
                raise FieldError(f"it has two of {_EXTENSIONS[flag]}")
            else:
                found[flag] = data
        return self._extended_member(buffer, start, at, found, metadata)

    def _extended_member(
        self, buffer: bytes, start: int, at: int, found: dict[bytes, bytes], metadata: int
    ) -> Member | None:
        """The member whose own header is at `at`, under the extension headers `found`."""
        name, owner, raw_size, raw_mtime, _, flag, link, magic, major, minor, prefix = (
            _HEADER.unpack_from(buffer, at)
        )
        kind = _KINDS.get(flag)
        if kind is None:
            raise FieldError(f"its type is unknown: {printable(flag)}")
        path = name.partition(b"\0")[0]
        if prefix[0] and magic[:6] == b"ustar\0":
            path = prefix.partition(b"\0")[0] + b"/" + path
        mode, uid, gid = self._owners.get(owner) or self._parse_owner(owner)
        member = Member(
            kind,
            found.get(b"L", path).partition(b"\0")[0],
            link=found.get(b"K", link).partition(b"\0")[0],
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_sec=headerfields.number(raw_mtime, "mtime"),
            size=headerfields.number(raw_size, "size"),
        )
        pax = self._apply_pax(member, found.get(b"x", b""))
        if kind == stat.S_IFCHR or kind == stat.S_IFBLK:
            member.rdev = _device(magic, major, minor)
        elif kind == stat.S_IFREG:
            member.link = b""
        after = at + BLOCK
        if flag == _SPARSE:
            old = self._gnu_sparse(buffer, start, at)
            if old is None:
                return None
            parts, real_size, after = old
        elif pax.map_in_data:
            end = self._pax_sparse_end(buffer, start, after, member.size, metadata)
            if end is None:
                return None
            parts, used = end
            real_size, after = pax.real_size, after + used
            member.size -= used
        elif pax.parts is not None:
            parts, real_size = pax.parts, pax.real_size
        elif pax.major is not None:
            raise FieldError("it is a sparse file of an unknown version")
        else:
            parts, real_size = None, 0
        self._checked(member, flag)
        if parts is not None:
            _make_sparse(member, parts, real_size)
        self.position = after
        return member

    def _apply_pax(self, member: Member, data: bytes) -> PaxSparse:
        """Take the records of a pax header into `member`; returns those on sparse files."""
        pax = PaxSparse()
        xattrs: dict[bytes, bytes] = {}
        for key, value in headerfields.pax_records(data):
            if key == b"path":
                member.path = headerfields.text(key, value)
            elif key == b"linkpath":
                member.link = headerfields.text(key, value)
            elif key == b"size":
                member.size = headerfields.decimal(key, value)
            elif key == b"uid":
                member.uid = _id(headerfields.decimal(key, value), "uid")
            elif key == b"gid":
                member.gid = _id(headerfields.decimal(key, value), "gid")
            elif key == b"mtime":
                member.mtime_sec, member.mtime_nsec = headerfields.time(value)
            elif key.startswith(b"GNU.sparse."):
                pax.take(key[11:], value)
            else:
                headerfields.pax_xattr(xattrs, key, value, only_schily=self._only_schily)
        member.path = pax.name or member.path
        member.xattrs = xattrs or None
        return pax

    def _gnu_sparse(self, buffer: bytes, start: int, at: int) -> tuple[SparseMap, int, int] | None:
        """GNU's old format: map, real size, end of the header blocks; None: more bytes needed."""
        if buffer[at + 257 : at + 265] != b"ustar  \0":
            raise FieldError("a GNU sparse file without GNU's header")
        real_size = headerfields.number(buffer[at + 483 : at + 495], "real size")
        parts = headerfields.sparse_map_slots(buffer, at + 386, 4)
        more, after = buffer[at + 482], at + BLOCK
        while more:
            if len(parts) > headerfields.SPARSE_ENTRIES_MAX or after - start > 2 * METADATA_MAX:
                raise FieldError("a sparse file of too many parts", limit=True)
            if after + BLOCK > len(buffer):
                self.need = after + BLOCK - start
                return None
            parts += headerfields.sparse_map_slots(buffer, after, 21)
            more, after = buffer[after + 504], after + BLOCK
        return parts, real_size, after

    def _pax_sparse_end(
        self, buffer: bytes, start: int, at: int, size: int, metadata: int
    ) -> tuple[SparseMap, int] | None:
        """The map in front of the data, and how many bytes of the data it takes; None: more bytes
        needed."""
        found = headerfields.sparse_map_lines(buffer, at)
        if found is None:
            have = len(buffer) - at
            if have >= size or have + metadata > 2 * METADATA_MAX:
                raise FieldError("the map of a sparse file has no end")
            self.need = have + at - start + BLOCK
            return None
        parts, end = found
        used = -(-(end - at) // BLOCK) * BLOCK
        if used > size:
            raise FieldError("the map of a sparse file is longer than its data")
        if at + used > len(buffer):
            self.need = at + used - start
            return None
        return parts, used


def _make_sparse(member: Member, parts: SparseMap, real_size: int) -> None:
    if member.kind != stat.S_IFREG:
        raise FieldError(f"{printable(member.path)}: only a regular file can be sparse")
    headerfields.check_sparse(parts, real_size, member.stored)
    member.sparse, member.size = parts, real_size


def _id(value: int, what: str) -> int:
    if not 0 <= value < 1 << 32:
        raise FieldError(f"{what} {value} does not fit 32 bits", limit=True)
    return value


def _device(magic: bytes, major: bytes, minor: bytes) -> int:
    if magic[:5] != b"ustar":
        raise FieldError("a device without device numbers")
    numbers = (
        headerfields.number(major, "device number"),
        headerfields.number(minor, "device number"),
    )
    if not 0 <= numbers[0] < 1 << 12 or not 0 <= numbers[1] < 1 << 20:
        raise FieldError("device number out of range", limit=True)
    return os.makedev(*numbers)
