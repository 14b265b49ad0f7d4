"""Images with objects beside them, for the tests of reader, view, servers and mounts."""

from __future__ import annotations

import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cfsrepo.formats import fsverity
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.formats.tree import Inode, directory, walk
from cfsrepo.images.location import ImageLocation
from cfsrepo.images.make import make_image
from cfsrepo.images.verified import ObjectDirectory, Verify
from cfsrepo.images.view import ImageView
from cfsrepo.store.objects import object_path

LARGE = 3 * (1 << 20) + 5  # over what is checked as a whole


@dataclass
class Sample:
    """A tree, its image in `image_file`, its objects below `object_dir`, its files' contents."""

    root: Inode = field(repr=False)
    image_file: Path
    object_dir: Path
    contents: dict[bytes, bytes] = field(repr=False)  # of regular files, by path
    objects: dict[bytes, Path] = field(default_factory=dict, repr=False)  # of the same

    @property
    def image(self) -> ErofsImage:
        return ErofsImage(self.image_file.read_bytes(), "sample")

    def view(self, *, verify: Verify = Verify.AUTO, merkle: Path | None = None) -> ImageView:
        path = None if merkle is None else str(merkle)
        return ImageView(self.image, ObjectDirectory(self.object_dir, verify=verify, merkle=path))

    def source(self) -> ImageLocation:
        return ImageLocation("sample", str(self.image_file), str(self.object_dir), None, None)


def noise(size: int, seed: int = 0) -> bytes:
    """`size` reproducible bytes that do not repeat."""
    return random.Random(seed * 1_000_003 + size).randbytes(size)


class Maker:
    """Makes regular files and keeps what they contain."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}  # content by digest

    def file(self, content: bytes, mode: int = 0o644, **more: object) -> Inode:
        """A regular file, its content inside the image up to 64 bytes, else an object."""
        inode = Inode(stat.S_IFREG | mode, size=len(content), **more)  # type: ignore[arg-type]
        if len(content) <= 64:
            inode.content = content
            return inode
        digest = fsverity.digest(content)
        self.stored[digest] = content
        inode.payload = object_path(digest).encode()
        inode.digest = digest
        return inode

    def write(self, root: Inode, directory: Path, *, version: int = 1) -> Sample:
        """The image and objects of `root` below `directory`."""
        objects = directory / "objects"
        for digest, content in self.stored.items():
            path = objects / object_path(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        objects.mkdir(exist_ok=True)
        image = directory / "image"
        image.write_bytes(make_image(root, min_version=version))
        sample = Sample(root, image, objects, {})
        for path, inode in walk(root):
            if inode.is_regular:
                if inode.digest is None:
                    sample.contents[path] = inode.content or b""
                else:
                    sample.contents[path] = self.stored[inode.digest]
                    sample.objects[path] = objects / object_path(inode.digest)
        return sample


def sample(path: Path, *, version: int = 1) -> Sample:
    """A tree with something of everything that an image can hold."""
    maker = Maker()
    root = directory(0o755)
    root.mtime_sec, root.mtime_nsec = 1_700_000_000, 5
    top = _entries(root)
    top[b"empty"] = maker.file(b"")
    top[b"inline"] = maker.file(b"inline content\n", 0o600, uid=1000, gid=1001)
    for size in (1, 63, 64, 65, 4095, 4096, 4097, 131072, 131073):
        top[b"file-%d" % size] = maker.file(noise(size), mtime_sec=size, mtime_nsec=999_999_999)
    top[b"large"] = maker.file(noise(LARGE), 0o755)
    top[b"old"] = maker.file(noise(100, 1), mtime_sec=-5, mtime_nsec=25)
    top[b"far"] = maker.file(noise(100, 2), mtime_sec=1 << 33, uid=(1 << 32) - 2, gid=1 << 31)
    shared = maker.file(noise(5000, 3), 0o4755)
    shared.nlink = 3
    top[b"link-a"] = top[b"link-b"] = shared
    top[b"symlink"] = Inode(stat.S_IFLNK | 0o777, payload=b"inline")
    top[b"long-symlink"] = Inode(stat.S_IFLNK | 0o777, payload=b"x" * 4095)
    top[b"dangling"] = Inode(stat.S_IFLNK | 0o777, payload=b"/no/where", uid=7)
    top[b"null"] = Inode(stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3))
    top[b"disk"] = Inode(stat.S_IFBLK | 0o660, rdev=os.makedev(259, 70000))
    top[b"fifo"] = Inode(stat.S_IFIFO | 0o600)
    top[b"socket"] = Inode(stat.S_IFSOCK | 0o755)
    # Names that the image's own whiteouts stand beside, or that sort before `.`.
    top[b"00"] = maker.file(b"a real 00")
    top[b"7f"] = directory(0o700)
    _entries(top[b"7f"])[b"link-c"] = shared
    top[b"!first"] = maker.file(b"!")
    top[b"n" * 255] = maker.file(b"long name")
    top[b"odd \t\n\\\xff\xfe"] = maker.file(b"odd name")
    many = top[b"many"] = directory(0o1777)
    for number in range(600):
        _entries(many)[b"entry-%04d" % number] = maker.file(b"%d" % number)
    top[b"empty-dir"] = directory(0o555)
    deep = top[b"deep"] = directory()
    for _ in range(60):
        below = directory()
        _entries(deep)[b"d"] = below
        deep = below
    _entries(deep)[b"bottom"] = maker.file(noise(70, 4))
    marked = top[b"xattrs"] = maker.file(noise(200, 5))
    marked.xattrs = {
        b"user.note": b"hello",
        b"user.empty": b"",
        b"security.capability": bytes.fromhex("0100000200200000000000000000000000000000"),
        b"trusted.overlay.redirect": b"/of the tree",
        b"trusted.overlay.overlay.x": b"twice",
        b"trusted.plain": b"t",
    }
    whited = top[b"whited"] = directory()
    _entries(whited)[b"gone"] = Inode(stat.S_IFCHR, rdev=0)
    _entries(whited)[b"here"] = maker.file(b"here")
    return maker.write(root, path, version=version)


def _entries(inode: Inode) -> dict[bytes, Inode]:
    assert inode.entries is not None
    return inode.entries


def flip(data: bytearray, generator: random.Random) -> int:
    """Invert one random bit; returns the offset of its byte."""
    at = generator.randrange(len(data))
    data[at] ^= 1 << generator.randrange(8)
    return at
