"""Image ids beside cfsctl: equal for every image that it takes and does not get wrong.

`CORPUS` are the images both must agree on, by id and by each other's checks. `BESIDE` are those
where cfsctl refuses or errs (the table in `cfsrepo.oci.merge`): here we do what tar and the OCI
specification say, and the test says what cfsctl does, so that a change there is noticed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from cfsrepo.oci.importer import pull
from cfsrepo.store.repository import Repository
from tests.conftest import Peer
from tests.oci.oci_builder import (
    BLOCK_DEVICE,
    CHAR,
    FIFO,
    GNU,
    V7,
    LayoutBuilder,
    archive,
    base,
    directory,
    gzip,
    hardlink,
    header,
    member,
    opaque,
    padded,
    pax_header,
    sha256,
    symlink,
    whiteout,
    zstd,
)

pytestmark = pytest.mark.interop

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

LOWER = base(
    directory(b"etc", mode=0o750, uid=7),
    directory(b"etc/d", mode=0o2755, mtime=5),
    member(b"etc/d/a", b"a" * 100),
    member(b"etc/d/b", b"b"),
    directory(b"etc/d/sub"),
    member(b"etc/d/sub/deep", b"deep" * 40),
    member(b"etc/keep", b"keep"),
    symlink(b"etc/link", b"keep"),
)

CORPUS: dict[str, list[bytes]] = {
    "empty-usr": [base()],
    "sizes": [
        base(*(member(b"f%d" % size, b"x" * size) for size in (0, 1, 63, 64, 65, 511, 512, 4096)))
    ],
    "large": [base(member(b"large", bytes(range(256)) * 20_000), member(b"after", b"z" * 65))],
    "opaque-before": [LOWER, archive(opaque(b"etc/d"), member(b"etc/d/new", b"new"))],
    "opaque-empty": [LOWER, archive(opaque(b"etc/d"))],
    "opaque-redeclared": [
        LOWER,
        archive(directory(b"etc/d", mode=0o700), opaque(b"etc/d"), member(b"etc/d/n", b"n")),
    ],
    "whiteout-file": [LOWER, archive(whiteout(b"etc/d/a"))],
    "whiteout-directory": [LOWER, archive(whiteout(b"etc/d"))],
    "whiteout-replaced": [
        LOWER,
        archive(whiteout(b"etc/d"), directory(b"etc/d"), member(b"etc/d/new", b"new" * 50)),
    ],
    "whiteout-of-nothing": [LOWER, archive(whiteout(b"etc/nothing"))],
    "aufs-bookkeeping": [LOWER, archive(member(b"etc/.wh..wh.aufs"))],
    "directory-metadata": [LOWER, archive(directory(b"etc", mode=0o711, uid=9, mtime=77))],
    "directory-to-file-and-back": [
        LOWER,
        archive(member(b"etc/d", b"file")),
        archive(directory(b"etc/d"), member(b"etc/d/again", b"again")),
    ],
    "file-to-directory-to-file-in-one": [
        base(
            member(b"x", b"1"),
            directory(b"x"),
            member(b"x/y", b"2"),
            member(b"x", b"3"),
            directory(b"x"),
        )
    ],
    "symlink-over-directory": [LOWER, archive(symlink(b"etc/d", b"keep"))],
    "directory-over-symlink": [LOWER, archive(directory(b"etc/link"))],
    "hardlinks": [
        base(
            member(b"one", b"1" * 1000, uid=3),
            hardlink(b"two", b"one"),
            hardlink(b"usr/three", b"./one"),
            hardlink(b"four", b"/usr/three"),
            symlink(b"sym", b"one"),
            hardlink(b"sym2", b"sym"),
            member(b"small", b"s"),
            hardlink(b"small2", b"small"),
            member(b"fifo", kind=FIFO),
            hardlink(b"fifo2", b"fifo"),
        )
    ],
    "hardlink-to-itself": [base(member(b"one", b"1" * 1000), hardlink(b"one", b"one"))],
    "hardlinks-across-layers": [
        base(member(b"one", b"1" * 1000), member(b"rest", b"r")),
        archive(hardlink(b"two", b"one"), whiteout(b"rest")),
        archive(member(b"one", b"new"), hardlink(b"three", b"two")),
        archive(whiteout(b"two")),
    ],
    "modes": [
        base(
            member(b"suid", b"x" * 100, mode=0o4755),
            member(b"sgid", b"x", mode=0o2755),
            member(b"sticky", mode=0o1644),
            member(b"none", mode=0),
            directory(b"tmp", mode=0o1777),
            member(b"type-in-mode", mode=0o100755),
        )
    ],
    "devices": [
        base(
            member(b"null", kind=CHAR, device=(1, 3), mode=0o666),
            member(b"big", kind=CHAR, device=(511, 1_048_575)),
            member(b"sda", kind=BLOCK_DEVICE, device=(8, 0), mode=0o660, gid=6),
            member(b"zero", kind=CHAR, device=(0, 0)),
            directory(b"sub"),
            member(b"sub/zero", kind=CHAR, device=(0, 0), mode=0o600, uid=5),
            member(b"fifo", kind=FIFO, mode=0o600),
        )
    ],
    "names": [
        base(
            member(b"tab\there", b"1"),
            member(b"new\nline", b"2"),
            member(b"space here", b"3"),
            member(b"back\\slash", b"4"),
            member(b"not-utf8-\xff\xfe\x80", b"5"),
            member(b"quote\"'", b"6"),
            member(b"-", b"7"),
            member(b"n" * 255, b"8" * 70),
            member(b"caf\xc3\xa9", b"9"),
            symlink(b"sym\tlink", b"tar\nget \\ \xff"),
            directory(b"..."),
            member(b".../x"),
        )
    ],
    "paths-of-300-bytes": [
        base(
            directory(b"d" * 150),
            directory(b"d" * 150 + b"/" + b"e" * 149),
            member(b"d" * 150 + b"/" + b"e" * 149 + b"/f", b"x" * 90),
            symlink(b"long-target", b"t" * 300),
            member(b"usr/" + b"p" * 90, b"prefix", prefix=b""),
            member(b"q" * 90, b"prefix", prefix=b"d" * 150),
        )
    ],
    "pax-names": [
        base(
            member(b"short", b"1", pax={b"path": b"pax-\xff-name"}),
            symlink(b"s", b"short", pax={b"linkpath": b"x" * 200}),
            member(b"ids", b"1", pax={b"uid": b"3000000000", b"gid": b"4294967294"}),
            pax_header({b"comment": b"global"}, b"g"),
            pax_header({b"uid": b"77"}, b"g"),
            member(b"after-global", b"g" * 80),
            member(b"size", b"x" * 100, pax={b"size": b"100"}, size=0),
        )
    ],
    "uids": [
        base(
            member(b"a", b"x", uid=65535, gid=65536),
            member(b"b", b"x", uid=2**31, gid=2**31 + 1),
            member(b"c", b"x", uid=2**32 - 2, gid=2**32 - 1),
            member(b"d", b"x", uid=2097151, gid=2097152),
        )
    ],
    "mtimes": [
        base(
            member(b"y2106", mtime=2**32 + 5),
            member(b"y9999", mtime=253402300800),
            member(b"fraction", pax={b"mtime": b"1234567890.123456789"}),
            member(b"half", pax={b"mtime": b"1234567890.5"}),
            member(b"long", pax={b"mtime": b"1234567890.1234567891234"}),
            member(b"dot", pax={b"mtime": b"1234567890."}),
            member(b"whole", pax={b"mtime": b"1234567890"}),
            member(b"far", pax={b"mtime": b"99999999999.25"}),
        )
    ],
    "xattrs": [
        base(
            member(b"cap", b"x" * 90, pax={b"SCHILY.xattr.security.capability": CAPABILITY}),
            directory(b"capdir", pax={b"SCHILY.xattr.security.capability": CAPABILITY}),
            member(
                b"foreign",
                b"x",
                pax={
                    b"SCHILY.xattr.user.comment": b"a=b\nc\0d",
                    b"SCHILY.xattr.security.selinux": b"system_u:object_r:etc_t:s0\0",
                    b"SCHILY.xattr.user.cfs.meta": b"1 104755 0 0 0 0.0",
                    b"SCHILY.xattr.trusted.overlay.opaque": b"y",
                    b"LIBARCHIVE.xattr.security.capability": b"AQAAAgAgAAAAAAAAAAAAAAAAAAA=",
                },
            ),
        ),
        archive(member(b"cap2", b"y", pax={b"SCHILY.xattr.security.capability": CAPABILITY})),
    ],
    "leading-dot": [
        archive(
            directory(b"./", mode=0o700, uid=1),
            directory(b"./usr/"),
            member(b"./usr/./file", b"x" * 70),
            member(b".//usr//other", b"y"),
            hardlink(b"./usr/link", b"./usr/file"),
        )
    ],
    "absolute-names": [
        archive(
            directory(b"/"),
            directory(b"/usr", mode=0o751),
            directory(b"//etc", uid=7),
            member(b"/etc/a", b"a" * 100),
            member(b"/b", b"b"),
            hardlink(b"/c", b"etc/a"),
            symlink(b"/s", b"/etc/a"),
        ),
        archive(whiteout(b"/b"), opaque(b"/etc"), member(b"/etc/new", b"new")),
    ],
    "absolute-root-and-target": [
        archive(directory(b"/"), directory(b"usr"), member(b"x", b"x"), hardlink(b"y", b"/x"))
    ],
    "same-path-twice": [
        base(
            member(b"a", b"first" * 30, uid=1),
            hardlink(b"b", b"a"),
            member(b"a", b"second" * 30, uid=2),
            directory(b"d", uid=1),
            member(b"d/x", b"x"),
            directory(b"d", uid=2),
        )
    ],
    "run": [
        base(
            directory(b"run", mtime=3, mode=0o711),
            member(b"run/pid", b"1"),
            member(b"keep", b"k" * 100),
            hardlink(b"run/keep", b"keep"),
        )
    ],
    "usr-with-capability": [
        archive(
            directory(
                b"usr",
                mode=0o751,
                uid=4,
                gid=5,
                pax={b"SCHILY.xattr.security.capability": CAPABILITY, b"mtime": b"100.25"},
            ),
            member(b"f", b"x" * 65),
        )
    ],
    "gnu-headers": [
        archive(
            directory(b"usr", magic=GNU),
            member(b"usr/" + b"g" * 200, b"x" * 66, magic=GNU),
            member(b"dev", kind=CHAR, device=(1, 5), magic=GNU),
        )
    ],
    "v7-headers": [archive(directory(b"usr", magic=V7), member(b"usr/x", b"x" * 66, magic=V7))],
    "contiguous": [base(member(b"seven", b"7" * 100, kind=b"7"))],
    "record-padding": [base(member(b"x", b"x")) + bytes(10240)],
    "without-end": [base(member(b"x", b"x"))[: -2 * 512]],
    "garbage-after-end": [base(member(b"x", b"x")) + b"garbage" * 100],
    "same-layer-twice": [LOWER, archive(whiteout(b"etc/d/a")), LOWER],
    "hex-names": [base(member(b"00", b"x"), member(b"ff", b"y" * 99), directory(b"0a"))],
    "many-files": [
        base(
            directory(b"many"),
            *(member(b"many/%05d" % number, b"%d" % number * 20) for number in range(3000)),
        )
    ],
}


class Cfsctl:
    """A fresh repository of cfsctl's."""

    def __init__(self, program: str, path: str) -> None:
        self.program = program
        self.path = path
        self.run("init", "--insecure", "--algorithm", "fsverity-sha256-12").check_returncode()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, "--repo", self.path, *words],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    def pull(self, source: str) -> str | None:
        """The id of the image `source`; None if cfsctl refuses it."""
        if self.run("oci", "pull", source, "test").returncode:
            return None
        (image,) = (name for name in os.listdir(f"{self.path}/images") if name != "refs")
        return image


@pytest.fixture
def cfsctl(peer: Peer, tmp_path: object) -> Cfsctl:
    return Cfsctl(peer("cfsctl"), f"{tmp_path}/cfsctl")


def pull_here(path: str, source: str) -> str:
    with Repository.init(path) as repository:
        return pull(repository, source, "test").image_id


@pytest.mark.parametrize("case", CORPUS)
def test_id_equals_cfsctl(case: str, cfsctl: Cfsctl, tmp_path: object) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(*CORPUS[case])
    ours = pull_here(f"{tmp_path}/ours", layout.source())
    assert ours == cfsctl.pull(layout.source())


@pytest.mark.parametrize("case", ["hardlinks", "xattrs", "large", "many-files", "sizes"])
def test_cfsctl_checks_our_repository(case: str, cfsctl: Cfsctl, tmp_path: object) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(*CORPUS[case])
    ours = pull_here(f"{tmp_path}/ours", layout.source())
    cfsctl.path = f"{tmp_path}/ours"
    fsck = cfsctl.run("oci", "fsck")
    assert fsck.returncode == 0, fsck.stdout + fsck.stderr
    # It makes the same image again of our layers' streams.
    assert cfsctl.run("oci", "compute-id", "test").stdout.strip() == ours
    for tar in CORPUS[case]:
        layer = subprocess.run(
            [cfsctl.program, "--repo", cfsctl.path, "oci", "layer", sha256(tar)],
            capture_output=True,
            check=True,
        )
        assert sha256(layer.stdout) == sha256(tar)


def test_images_of_cfsctl_are_pulled_again(cfsctl: Cfsctl, tmp_path: object) -> None:
    """Layers that cfsctl stored are used as they are, and its tag is found."""
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(*CORPUS["hardlinks-across-layers"])
    theirs = cfsctl.pull(layout.source())
    with Repository.open(cfsctl.path) as repository:
        again = pull(repository, layout.source(), "again")
    assert again.image_id == theirs
    assert again.new_layers == 0
    assert cfsctl.run("oci", "fsck").returncode == 0


@pytest.mark.parametrize("packing", ["none", "gzip", "zstd"])
def test_packings(packing: str, cfsctl: Cfsctl, tmp_path: object) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(LOWER, packing=packing)
    assert pull_here(f"{tmp_path}/ours", layout.source()) == cfsctl.pull(layout.source())


@pytest.mark.parametrize(("pack", "suffix"), [(gzip, "+gzip"), (zstd, "+zstd")])
def test_several_members_or_frames(
    pack: Callable[[bytes], bytes], suffix: str, cfsctl: Cfsctl, tmp_path: object
) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    packed = b"".join(pack(LOWER[at : at + 1000]) for at in range(0, len(LOWER), 1000))
    layer = layout.blob(packed, "application/vnd.oci.image.layer.v1.tar" + suffix)
    layout.image(LOWER, layers=[layer])
    assert pull_here(f"{tmp_path}/ours", layout.source()) == cfsctl.pull(layout.source())


def test_several_platforms(cfsctl: Cfsctl, tmp_path: object) -> None:
    layout = LayoutBuilder(f"{tmp_path}/layout")
    for architecture in ("s390x", "amd64", "arm64", "riscv64"):
        layout.image(base(member(architecture.encode(), b"x")), architecture=architecture)
    assert pull_here(f"{tmp_path}/ours", layout.source()) == cfsctl.pull(layout.source())


def sparse_old(name: bytes, parts: list[tuple[int, bytes]], size: int) -> bytes:
    """A sparse file in GNU's old format, of at most four parts."""
    stored = b"".join(data for _, data in parts)
    block = bytearray(header(name, b"S", size=len(stored), magic=GNU))
    slots = b"".join(b"%011o\0%011o\0" % (offset, len(data)) for offset, data in parts)
    block[386 : 386 + len(slots)] = slots
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + padded(stored)


LINKED = base(
    directory(b"usr/bin"),
    member(b"usr/bin/old", b"o" * 100),
    symlink(b"bin", b"usr/bin"),
    member(b"file", b"f"),
)

# name -> layers, does cfsctl take it at all
BESIDE: dict[str, tuple[list[bytes], bool]] = {
    "opaque-after": (
        [LOWER, archive(member(b"etc/d/new", b"new" * 50), opaque(b"etc/d"))],
        True,
    ),
    "whiteout-after": ([LOWER, archive(member(b"etc/keep", b"2"), whiteout(b"etc/keep"))], True),
    "parents-missing": ([base(member(b"no/such/parent", b"x"))], False),
    "whiteout-in-nothing": ([LOWER, archive(whiteout(b"no/such"))], False),
    "through-a-link-of-the-layer": (
        [base(directory(b"usr/bin"), symlink(b"bin", b"usr/bin"), member(b"bin/x", b"x" * 99))],
        False,
    ),
    "through-a-link-below": ([LINKED, archive(member(b"bin/x", b"x" * 99))], False),
    "through-a-file-below": ([LINKED, archive(member(b"file/x", b"x" * 99))], False),
    "whiteout-through-a-link": ([LINKED, archive(whiteout(b"bin/old"))], False),
    "hard-link-through-a-link": (
        [base(directory(b"d"), member(b"d/a", b"x"), symlink(b"s", b"d"), hardlink(b"b", b"s/a"))],
        False,
    ),
    "sparse": ([base(sparse_old(b"s", [(4096, b"x" * 512)], 10_000))], False),
    "pax-before-1970": ([base(member(b"x", pax={b"mtime": b"-1.5"}))], False),
    "without-usr": ([archive(directory(b"etc"), member(b"etc/x", b"x"))], False),
    "run-is-a-file": ([base(member(b"run", b"x"))], False),
    "without-end": ([base(member(b"x"))[: -2 * 512]], False),
    "before-1970": ([base(member(b"old", mtime=-1), member(b"older", mtime=-(2**40)))], True),
    "v7-directory": (
        [base(header(b"d/", b"\0", magic=V7, mode=0o755), member(b"d2", b"x"))],
        True,
    ),
}


@pytest.mark.parametrize("case", BESIDE)
def test_beside_cfsctl(case: str, cfsctl: Cfsctl, tmp_path: object) -> None:
    layers, taken = BESIDE[case]
    layout = LayoutBuilder(f"{tmp_path}/layout")
    layout.image(*layers)
    ours = pull_here(f"{tmp_path}/ours", layout.source())
    theirs = cfsctl.pull(layout.source())
    assert (theirs is not None) == taken
    assert ours != theirs
