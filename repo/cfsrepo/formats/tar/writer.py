"""Members as bytes of a tar archive: the inverse of `cfsrepo.formats.tar.reader`.

ustar where that is enough; base-256 for ids and times that are too large (or before 1970); a pax
header for what is left: names over 100 bytes, times with a fraction, extended attributes. The same
member always gives the same bytes.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from cfsrepo.formats.tar.headerfields import BLOCK
from cfsrepo.formats.tar.reader import HARDLINK, Member

END: Final = bytes(2 * BLOCK)

_FLAGS: Final = {
    stat.S_IFREG: b"0",
    HARDLINK: b"1",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def encode(member: Member) -> bytes:
    """The headers of `member`; its data, if it has any, and `member.padding` zeros follow.

    ValueError for what no archive can hold: a socket, a sparse file.
    """
    flag = _FLAGS.get(member.kind)
    if flag is None or member.sparse is not None:
        raise ValueError("no archive can hold this member")
    path = member.path + b"/" if member.kind == stat.S_IFDIR else member.path
    pax: list[tuple[bytes, bytes]] = []
    if len(path) > 100:
        pax.append((b"path", path))
    if len(member.link) > 100:
        pax.append((b"linkpath", member.link))
    if member.mtime_nsec:
        pax.append((b"mtime", _time(member.mtime_sec, member.mtime_nsec)))
    for key, value in sorted((member.xattrs or {}).items()):
        name = key.replace(b"%", b"%25").replace(b"=", b"%3D")
        pax.append((b"SCHILY.xattr." + name, value))
    block = _block(path, flag, member)
    if not pax:
        return block
    data = b"".join(_record(key, value) for key, value in pax)
    size = len(data)
    extension = Member(stat.S_IFREG, b"PaxHeaders/0", mode=0o644, size=size, stored=size)
    return _block(extension.path, b"x", extension) + data + bytes(-len(data) % BLOCK) + block


def _block(path: bytes, flag: bytes, member: Member) -> bytes:
    device = flag in (b"3", b"4")
    block = bytearray(BLOCK)
    block[0:100] = path[:100].ljust(100, b"\0")
    block[100:108] = _number(member.mode, 8)
    block[108:116] = _number(member.uid, 8)
    block[116:124] = _number(member.gid, 8)
    block[124:136] = _number(member.stored, 12)
    block[136:148] = _number(member.mtime_sec, 12)
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[157:257] = member.link[:100].ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[329:337] = _number(os.major(member.rdev) if device else 0, 8)
    block[337:345] = _number(os.minor(member.rdev) if device else 0, 8)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _number(value: int, width: int) -> bytes:
    if 0 <= value < 1 << 3 * (width - 1):
        return b"%0*o\0" % (width - 1, value)
    field = bytearray(value.to_bytes(width, "big", signed=True))
    field[0] |= 0x80
    return bytes(field)


def _time(sec: int, nsec: int) -> bytes:
    """A pax time: the fraction counts away from zero, unlike that of struct timespec."""
    sign = b""
    if sec < 0:
        sign, sec, nsec = b"-", -sec - 1, 1_000_000_000 - nsec
    return b"%b%d.%09d" % (sign, sec, nsec)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
