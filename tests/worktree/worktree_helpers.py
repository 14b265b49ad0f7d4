"""Images for the tests of bare-user trees."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from cfsrepo.formats.erofs.writer import write_image
from cfsrepo.formats.tree import Inode, directory, walk
from cfsrepo.images.imagetree import load_image
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository
from cfsrepo.worktree.checkout import checkout
from cfsrepo.worktree.commit import commit

DATA = bytes(range(256)) * 30


def regular(repo: Repository, data: bytes, mode: int = 0o644, **fields: int) -> Inode:
    inode = Inode(stat.S_IFREG | mode, size=len(data), **fields)
    if len(data) > 64:
        inode.digest = repo.objects.put(data)
        inode.payload = object_path(inode.digest).encode()
    else:
        inode.content = data or None
    return inode


def symlink(target: bytes, **fields: int) -> Inode:
    return Inode(stat.S_IFLNK | 0o777, payload=target, size=len(target), **fields)


def sample(repo: Repository) -> Inode:
    """A tree with something of everything."""
    root = directory(0o751)
    entries = root.entries
    assert entries is not None
    root.mtime_sec, root.mtime_nsec = 1_500_000_000, 7
    entries[b"plain"] = regular(repo, DATA, mtime_sec=1_600_000_000, mtime_nsec=123)
    entries[b"small"] = regular(repo, b"small", 0o400, uid=5, gid=6)
    entries[b"empty"] = regular(repo, b"", 0)
    entries[b"suid"] = regular(repo, DATA[:100], 0o4755)
    entries[b"open"] = regular(repo, b"x", 0o1777)
    entries[b"big-ids"] = regular(repo, b"x", uid=2**32 - 2, gid=2**31)
    entries[b"old"] = regular(repo, b"x", mtime_sec=-5, mtime_nsec=1)
    entries[b"ancient"] = regular(repo, b"x", mtime_sec=-(2**40), mtime_nsec=1)
    entries[b"far"] = regular(repo, b"x", mtime_sec=253402300800, mtime_nsec=5)
    entries[b"link"] = symlink(b"plain", mtime_sec=1_234_567_890, mtime_nsec=9)
    entries[b"owned-link"] = symlink(b"../over there\n", uid=7)
    entries[b"odd-link"] = symlink(b"x")
    entries[b"odd-link"].mode = stat.S_IFLNK | 0o700
    entries[b"far-link"] = symlink(b"x", mtime_sec=253402300800)
    entries[b"null"] = Inode(stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3), gid=3)
    entries[b"disk"] = Inode(stat.S_IFBLK | 0o660, rdev=os.makedev(259, 70000))
    entries[b"whiteout"] = Inode(stat.S_IFCHR)
    entries[b"fifo"] = Inode(stat.S_IFIFO | 0o600)
    entries[b"socket"] = Inode(stat.S_IFSOCK | 0o777)
    entries[b"attributes"] = regular(repo, b"x")
    entries[b"attributes"].xattrs = {b"security.capability": bytes(20), b"user.a b=": b"\xff\n"}
    entries[b"not-utf8-\xff\xfe"] = regular(repo, b"x")
    entries[b"new\nline \\"] = regular(repo, b"x")
    below = entries[b"dir"] = directory(0o2777)
    below.uid, below.mtime_sec, below.xattrs = 8, 42, {b"trusted.x": b"y"}
    assert below.entries is not None
    below.entries[b"hard"] = entries[b"plain"]
    below.entries[b"hard-link"] = entries[b"owned-link"]
    below.entries[b"hard-real-link"] = entries[b"link"]
    below.entries[b"hard-device"] = entries[b"null"]
    for name in (b"plain", b"owned-link", b"link", b"null"):
        entries[name].nlink = 2
    deep = below.entries[b"locked"] = directory(0)
    assert deep.entries is not None
    deep.entries[b"file"] = regular(repo, b"in a directory of mode 0")
    for _, inode in walk(root):
        if inode.entries is not None:
            inode.nlink = 2 + sum(child.is_dir for child in inode.entries.values())
    return root


def image_of(repo: Repository, root: Inode, name: str) -> str:
    parts: list[bytes] = []
    write_image(root, parts.append)
    return repo.add_image(b"".join(parts), name)


def checked_out(
    repo: Repository,
    image: str,
    path: str,
    only: Sequence[bytes] = (),
    *,
    verify: bool = True,
    workers: int | None = None,
) -> str:
    """The tree that `checkout` makes at `path`."""
    checkout(repo, image, path, only, verify=verify, workers=workers)
    return path


def committed(repo: Repository, tree: str, base: str | None = None) -> dict[bytes, Inode]:
    commit(repo, tree, "edited", base=base)
    return dict(walk(load_image(repo, "edited")))
