"""composefs-dump(5): what is read, what is refused and how, and the canonical form."""

from __future__ import annotations

import io
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsrepo.errors import InputError, LimitError
from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.tree import Inode
from tests.formats.formats_helpers import dump_bytes, tree_of, trees

ROOT = b"/ 4096 40755 2 0 0 0 0.0 - - -\n"
DIGEST = b"ab" * 32


def child(line: bytes) -> Inode:
    """The only entry of a root made from `line` (and the root's)."""
    entries = tree_of(ROOT + line + b"\n").entries
    assert entries is not None
    (inode,) = entries.values()
    return inode


def test_fields_of_a_file() -> None:
    inode = child(b"/f 5 100640 1 1000 1001 0 -7.000000009 ab/cd - " + DIGEST + b" user.k=v")
    assert inode.mode == 0o100640
    assert (inode.size, inode.nlink, inode.uid, inode.gid) == (5, 1, 1000, 1001)
    assert (inode.mtime_sec, inode.mtime_nsec) == (-7, 9)
    assert (inode.payload, inode.digest, inode.content) == (b"ab/cd", b"\xab" * 32, None)
    assert inode.xattrs == {b"user.k": b"v"}


def test_sha512_digest() -> None:
    assert child(b"/f 5 100640 1 0 0 0 0.0 ab/cd - " + b"AB" * 64).digest == b"\xab" * 64


def test_content_wins_over_an_object() -> None:
    inode = child(b"/f 3 100644 1 0 0 0 0.0 ab/cd a\\x20b " + DIGEST)
    assert (inode.content, inode.payload, inode.digest) == (b"a b", None, None)


def test_device_fifo_and_symlink() -> None:
    assert child(b"/d 0 20600 1 0 0 1281 0.0 - - -").rdev == 1281
    assert child(b"/d 0 10600 1 0 0 1281 0.0 - - -").rdev == 0
    link = child(b"/l 99 120777 1 0 0 0 0.0 \\x2d - -")
    assert (link.payload, link.size) == (b"-", 1)


@pytest.mark.parametrize(
    "line",
    [
        b"/f 0 100644 1 0 0 0 0.0 - - - ",  # one space at the end
        b"f 0 100644 1 0 0 0 0.0 - - -",  # no leading slash
        b"//f 0 100644 1 0 0 0 0.0 - - -",
        b"/f 0 100644 1 0 0 0 0.0 - -",  # cut where nothing is needed
        b"/f 0 100644 1 0 0 0 0.0 -",
        b"/f 0 100644 1 0 0 0 0.0",
        b"/f 0 20720777 1 0 0 0 0.0 target",  # MODE has more than 16 bits
        b"/f 0 000100644 01 00 00 00 00.00 - - -",
        b"/f 0 100644 1 0 0 4294967295 0.4294967295 - - -",  # RDEV of a file
        b"/f 18446744073709551615 20666 4294967295 4294967295 4294967295 5 0.0 x - -",
        b"/f 9007199254740992 100644 1 0 0 0 9223372036854775807.0 - - -",
        b"/f 0 100644 1 0 0 0 -9223372036854775808.0 - - -",
        b"/f 0 100644 1 0 0 0 0.0 - - - k\\x3d=a=b",
        b"/f 3 40755 2 0 0 0 0.0 - abc -",  # CONTENT of a directory
    ],
)
def test_taken_on_purpose(line: bytes) -> None:
    child(line)


def test_xattrs_split_at_the_first_equal_sign_and_the_last_one_counts() -> None:
    assert child(b"/f 0 100644 1 0 0 0 0.0 - - - a=b=c k\\x3d= a=x\\x00").xattrs == {
        b"a": b"x\0",
        b"k=": b"",
    }


REFUSED = {
    "no such digit": (b"/f x 100644 1 0 0 0 0.0 - - -", "SIZE 'x' is not a decimal number"),
    "negative size": (b"/f -1 100644 1 0 0 0 0.0 - - -", "SIZE '-1' is not a decimal number"),
    "sign": (b"/f +1 100644 1 0 0 0 0.0 - - -", "not a decimal number"),
    "underscore": (b"/f 1_0 100644 1 0 0 0 0.0 - - -", "not a decimal number"),
    "size": (b"/f 18446744073709551616 20666 1 0 0 1 0.0 - - -", "out of range"),
    "large size": (b"/f 9007199254740993 100644 1 0 0 0 0.0 - - -", "is over 9007199254740992"),
    "nlink": (b"/f 0 100644 4294967296 0 0 0 0.0 - - -", "NLINK '4294967296' is out of range"),
    "uid": (b"/f 0 100644 1 4294967296 0 0 0.0 - - -", "UID '4294967296' is out of range"),
    "gid": (b"/f 0 100644 1 1 x 0 0.0 - - -", "GID 'x' is not a decimal number"),
    "rdev": (b"/f 0 100644 1 1 0 x 0.0 - - -", "RDEV 'x' is not a decimal number"),
    "empty number": (b"/f 0 100644  0 0 0 0.0 - - -", "NLINK '' is not a decimal number"),
    "mode": (b"/f 0 100648 1 0 0 0 0.0 - - -", "MODE '100648' is not an octal number"),
    "mode without type": (b"/f 0 644 1 0 0 0 0.0 - - -", "no known file type"),
    "unknown type": (b"/f 0 30644 1 0 0 0 0.0 - - -", "no known file type"),
    "empty mode": (b"/f 0  1 0 0 0 0.0 - - -", "MODE '' is not an octal number"),
    "mtime without dot": (b"/f 0 100644 1 0 0 0 5 - - -", "is not seconds.nanoseconds"),
    "mtime without sec": (b"/f 0 100644 1 0 0 0 .5 - - -", "MTIME '' is not a decimal number"),
    "mtime without nsec": (b"/f 0 100644 1 0 0 0 5. - - -", "MTIME '' is not a decimal number"),
    "negative nsec": (b"/f 0 100644 1 0 0 0 5.-5 - - -", "MTIME '-5' is not a decimal number"),
    "late": (b"/f 0 100644 1 0 0 0 9223372036854775808.0 - - -", "out of range"),
    "early": (b"/f 0 100644 1 0 0 0 -9223372036854775809.0 - - -", "out of range"),
    "short line": (b"/f 0 100644 1 0 0 0", "line ends before MTIME"),
    "path only": (b"/f", "line ends before SIZE"),
    "empty line": (b"", "empty line"),
    "empty path": (b" 0 100644 1 0 0 0 0.0 - - -", "PATH is empty"),
    "second root": (b"/ 4096 40755 2 0 0 0 0.0 - - -", "the root `/` is there already"),
    "dot": (b"/. 0 100644 1 0 0 0 0.0 - - -", "does not end in a file name"),
    "dotdot": (b"/.. 0 100644 1 0 0 0 0.0 - - -", "does not end in a file name"),
    "trailing slash": (b"/f/ 0 100644 1 0 0 0 0.0 - - -", "is missing"),
    "long name": (b"/" + b"n" * 256 + b" 0 100644 1 0 0 0 0.0 - - -", "a?name of 256 bytes"),
    "no directory": (b"/d/f 0 100644 1 0 0 0 0.0 - - -", "directory of '/d/f' is missing"),
    "NUL": (b"/f\0 0 100644 1 0 0 0 0.0 - - -", "NUL byte at position 3"),
    "escaped NUL": (b"/f\\x00 0 100644 1 0 0 0 0.0 - - -", "NUL byte in PATH"),
    "NUL in payload": (b"/f 1 100644 1 0 0 0 0.0 a\\x00b - -", "NUL byte in PAYLOAD"),
    "NUL in key": (b"/f 0 100644 1 0 0 0 0.0 - - - a\\x00=b", "no usable name"),
    "escape": (b"/f\\y 0 100644 1 0 0 0 0.0 - - -", "unknown escape"),
    "cut escape": (b"/f 1 100644 1 0 0 0 0.0 x\\ - -", "escape cut short"),
    "escape in value": (b"/f 0 100644 1 0 0 0 0.0 - - - a=\\xzz", "unknown escape"),
    "no target": (b"/f 0 120777 1 0 0 0 0.0 - - -", "a symlink needs a target"),
    "empty target": (b"/f 0 120777 1 0 0 0 0.0  - -", "a symlink needs a target"),
    "long target": (b"/f 0 120777 1 0 0 0 0.0 " + b"t" * 4096 + b" - -", "is over 4095"),
    "long payload": (b"/f 9 100644 1 0 0 0 0.0 " + b"t" * 4096 + b" - -", "is over 4095"),
    "content too short": (b"/f 4 100644 1 0 0 0 0.0 - abc -", "CONTENT has 3 bytes, SIZE says 4"),
    "large content": (b"/f 5001 100644 1 0 0 0 0.0 - " + b"c" * 5001 + b" -", "is over 5000"),
    "short digest": (b"/f 1 100644 1 0 0 0 0.0 x - " + b"a" * 63, "is not 64 (or 128) hex"),
    "long digest": (b"/f 1 100644 1 0 0 0 0.0 x - " + b"a" * 65, "is not 64 (or 128) hex"),
    "no digest": (b"/f 1 100644 1 0 0 0 0.0 x - " + b"g" * 64, "is not 64 (or 128) hex"),
    "spaced digest": (b"/f 1 100644 1 0 0 0 0.0 x - " + b"a" * 63 + b"\t", "is not 64"),
    "digest missing": (b"/f 1 100644 1 0 0 0 0.0 x -", "DIGEST is empty"),
    "digest empty": (b"/f 0 100644 1 0 0 0 0.0 x -  a=b", "is not 64 (or 128) hex"),
    "carriage return": (b"/f 0 100644 1 0 0 0 0.0 - - -\r", "is not 64 (or 128) hex"),
    "xattr": (b"/f 0 100644 1 0 0 0 0.0 - - - abc", "'abc' without `=`"),
    "two spaces": (b"/f 0 100644 1 0 0 0 0.0 - - -  a=b", "'' without `=`"),
    "two spaces at end": (b"/f 0 100644 1 0 0 0 0.0 - - - a=b  ", "'' without `=`"),
    "empty key": (b"/f 0 100644 1 0 0 0 0.0 - - - =b", "no usable name"),
    "long key": (b"/f 0 100644 1 0 0 0 0.0 - - - " + b"k" * 256 + b"=", "is over 255 bytes"),
    "xattr area": (b"/f 0 100644 1 0 0 0 0.0 - - - k=" + b"v" * 32748, "over 32767"),
    "xattr text": (b"/f 0 100644 1 0 0 0 0.0 - - - k=" + b"\\x00" * 16384, "over 65535"),
    "link to itself": (b"/f 0 @100644 1 0 0 0 0.0 /f - -", "leads to itself"),
    "link to the root": (b"/f 0 @100644 1 0 0 0 0.0 / - -", "leads to a directory"),
    "link to empty": (b"/f 0 @100644 1 0 0 0 0.0  - -", "leads to a directory"),
    "link to nothing": (b"/f 0 @100644 1 0 0 0 0.0 /g - -", "nothing at '/g'"),
    "link without target": (b"/f 0 @100644 1 0 0 0 0.0 - - -", "needs the path"),
    "directory link": (b"/f 0 @40755 1 0 0 0 0.0 / - -", "a directory cannot be a hard link"),
    "link without type": (b"/f 0 @644 1 0 0 0 0.0 / - -", "no known file type"),
    "lone @": (b"/f 0 @ 1 0 0 0 0.0 / - -", "not an octal number"),
}


@pytest.mark.parametrize(("line", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(line: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read_dump(io.BytesIO(ROOT + line + b"\n"), "the.dump")
    message = str(caught.value)
    assert message.startswith("the.dump:2: ")
    assert reason.replace("a?", "") in message


def test_limits_are_limit_errors() -> None:
    with pytest.raises(LimitError):
        tree_of(ROOT + REFUSED["uid"][0])


@pytest.mark.parametrize(
    ("dump", "reason"),
    [
        (b"", "x.dump: no files in the dump"),
        (b"/f 0 100644 1 0 0 0 0.0 - - -\n", "x.dump:1: the first line must be the root"),
        (b"/ 0 100644 1 0 0 0 0.0 - - -\n", "x.dump:1: the root must be a directory"),
        (b"/ 0 @100644 1 0 0 0 0.0 /x - -\n", "x.dump:1: the root must be a directory"),
        (ROOT + b"\n", "x.dump:2: empty line"),
        (ROOT + REFUSED["nlink"][0][:-1] + b"5", "x.dump:2: NLINK"),
        (b"/" * (9 << 20), "x.dump:1: "),
    ],
)
def test_refused_as_a_whole(dump: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read_dump(io.BytesIO(dump), "x.dump")
    assert str(caught.value).startswith(reason)


def test_a_name_can_be_there_once() -> None:
    line = b"/f 0 100644 1 0 0 0 0.0 - - -\n"
    with pytest.raises(InputError, match=r":3: '/f' is there already"):
        tree_of(ROOT + line + line)


def test_what_is_in_a_file_is_in_no_directory() -> None:
    for first in (b"/f 0 100644 1 0 0 0 0.0 - - -\n", b"/f 0 @100644 1 0 0 0 0.0 /g - -\n"):
        with pytest.raises(InputError, match=r":3: the parent of '/f/g' is not a directory"):
            tree_of(ROOT + first + b"/f/g 0 100644 1 0 0 0 0.0 - - -\n")


@pytest.mark.parametrize(
    "dump",
    [
        ROOT[:-1],
        ROOT + b"/l 3 120777 1 0 0 0 0.0 four - -\n",
        ROOT + b"/l 4 120777 1 0 0 0 0.0 four four -\n",
        ROOT + b"/f 0 100644 1 0 0 5 0.0 - - -\n",
    ],
)
def test_strict_refuses_more(dump: bytes) -> None:
    tree_of(dump)
    with pytest.raises(InputError):
        tree_of(dump, strict=True)


def test_hard_links_before_their_inode_and_in_chains() -> None:
    root = tree_of(
        ROOT
        + b"/a 0 @100644 1 0 0 0 0.0 /b - -\n"
        + b"/b x @120777 j u n k - /d//c/\n"
        + b"/d 0 40755 2 0 0 0 0.0 - - -\n"
        + b"/d/c 3 100644 3 0 0 0 0.0 - abc -\n"
        + b"/e 0 @100644 1 0 0 0 0.0 a - -\n"
    ).entries
    assert root is not None
    inode = root[b"d"].entries[b"c"]  # type: ignore[index]
    assert root[b"a"] is root[b"b"] is root[b"e"] is inode
    assert inode.nlink == 3
    assert inode.home == (root[b"d"], b"c")


def test_a_circle_of_hard_links_names_the_line() -> None:
    circle = b"/a 0 @100644 1 0 0 0 0.0 /b - -\n/b 0 @100644 1 0 0 0 0.0 /a - -\n"
    with pytest.raises(InputError, match=r":2: the hard link leads to itself"):
        tree_of(ROOT + circle)


def test_a_hard_link_to_a_missing_target_names_the_line() -> None:
    with pytest.raises(InputError, match=r":3: nothing at"):
        tree_of(ROOT + b"/f 0 100644 1 0 0 0 0.0 - - -\n/l 0 @100644 1 0 0 0 0.0 /x - -\n")


def test_a_thousand_directories_deep() -> None:
    path, lines = b"", [ROOT]
    for level in range(1000):
        path += b"/%d" % level
        lines.append(path + b" 4096 40755 2 0 0 0 0.0 - - -\n")
    root = tree_of(b"".join(lines))
    assert dump_bytes(root).count(b"\n") == 1001


def test_xattrs_of_two_lines_are_two_dicts() -> None:
    line = b" 0 100644 1 0 0 0 0.0 - - - user.a=b\n"
    entries = tree_of(ROOT + b"/a" + line + b"/b" + line).entries
    assert entries is not None
    assert entries[b"a"].xattrs == entries[b"b"].xattrs
    assert entries[b"a"].xattrs is not entries[b"b"].xattrs


def test_canonical_form() -> None:
    root = tree_of(
        b"/ 7 40755 9 0 0 0 0.0 - - -\n"
        b"/b 9 120777 1 0 0 0 1.5 t - -\n"
        b"/a 0 20644 1 0 0 0 0.0 - - -\n"
        b"/c 2 100644 7 0 0 5 0.0 - \\x2d= - user.b=2 user.a=\\x3d\n"
        b"/d 0 @100644 1 0 0 0 0.0 /c - -\n"
        b"/e 0 10644 1 0 0 0 0.0 - - - user.b=2\n"
    )
    marks = b" trusted.overlay.opaque=x user.overlay.opaque=x"
    assert dump_bytes(root) == (
        b"/ 4096 40755 2 0 0 0 0.0 - - -" + marks + b"\n"
        b"/a 0 20644 1 0 0 0 0.0 - - -\n"
        b"/b 1 120777 1 0 0 0 1.5 t - -\n"
        b"/c 2 100644 7 0 0 0 0.0 - -= - user.a=\\x3d user.b=2\n"
        b"/d 2 @100644 7 0 0 0 0.0 /c -= - user.a=\\x3d user.b=2\n"
        b"/e 0 10644 1 0 0 0 0.0 - - - user.b=2\n"
    )
    assert marks not in dump_bytes(root, 0, 0)


@given(trees)
def test_canonical_dump_of_its_own_tree_is_itself(root: Inode) -> None:
    dump = dump_bytes(root)
    assert dump_bytes(tree_of(dump)) == dump


@given(trees, st.integers(0, 1 << 30), st.binary(max_size=3))
def test_damaged_dumps_are_refused_or_read(root: Inode, at: int, new: bytes) -> None:
    dump = dump_bytes(root)
    at %= len(dump)
    try:
        tree = tree_of(dump[:at] + new + dump[at + len(new) :])
    except InputError:
        return
    assert stat.S_ISDIR(tree.mode)
