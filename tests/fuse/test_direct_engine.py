"""The direct server, spoken to as the kernel does, over a socket in the place of /dev/fuse."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsfuse.engines import direct, protocol
from cfsfuse.engines.direct import Server
from cfsfuse.engines.protocol import Opcode
from cfsrepo.formats.erofs.reader import Backing
from cfsrepo.images.contents import Buffer
from cfsrepo.images.view import ImageView
from tests.fuse.fuse_helpers import Sample, sample

ALL_FLAGS = (1 << 32) - 1


class Kernel:
    """The other end of the connection."""

    def __init__(self, view: ImageView, *, trusted: bool = True) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(20)
        self.server = Server(view, theirs.detach(), trusted=trusted)
        self.ready = threading.Event()
        self.ended: list[bool] = []
        self._unique = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self.server:
            self.ended.append(self.server.run(self.ready.set))

    def send(self, opcode: int, nodeid: int = 1, body: bytes = b"", *, uid: int = 0) -> int:
        self._unique += 2
        header = protocol.IN_HEADER.pack(
            protocol.IN_HEADER.size + len(body), opcode, self._unique, nodeid, uid, 0, 0, 0
        )
        self._socket.sendall(header + body)
        return self._unique

    def receive(self) -> tuple[int, int, bytes]:
        reply = self._socket.recv(2 << 20)
        length, code, unique = protocol.OUT_HEADER.unpack_from(reply)
        assert length == len(reply)
        return unique, -code, reply[protocol.OUT_HEADER.size :]

    def ask(
        self, opcode: int, nodeid: int = 1, body: bytes = b"", *, uid: int = 0
    ) -> tuple[int, bytes]:
        """(errno, body) of the reply."""
        unique = self.send(opcode, nodeid, body, uid=uid)
        answered, code, reply = self.receive()
        assert answered == unique
        return code, reply

    def init(self, *, minor: int = 45) -> tuple[int, bytes]:
        return self.ask(Opcode.INIT, 0, protocol.INIT_IN.pack(7, minor, 131072, ALL_FLAGS))

    def lookup(self, name: bytes, parent: int = 1) -> int:
        """The nodeid; 0 where the name is not there."""
        code, body = self.ask(Opcode.LOOKUP, parent, name + b"\0")
        assert code == 0
        nodeid: int = protocol.ENTRY_OUT.unpack(body)[0]
        return nodeid

    def read(self, nodeid: int, offset: int, size: int) -> tuple[int, bytes]:
        return self.ask(Opcode.READ, nodeid, protocol.READ_IN.pack(0, offset, size, 0, 0, 0, 0))

    def unmount(self) -> None:
        self._socket.close()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tmp_path)


@pytest.fixture
def kernel(made: Sample) -> Iterator[Kernel]:
    peer = Kernel(made.view())
    assert peer.init()[0] == 0
    yield peer
    peer.unmount()
    assert peer.ended == [True]


def test_negotiation(made: Sample) -> None:
    peer = Kernel(made.view())
    # What comes before INIT is not for us.
    assert peer.ask(Opcode.GETATTR)[0] == errno.EIO
    code, body = peer.init()
    assert code == 0
    major, _, readahead, flags, _, _, max_write, _, max_pages, *_ = protocol.INIT_OUT.unpack(body)
    assert (major, readahead, max_write, max_pages) == (7, 1 << 20, 4096, 256)
    assert flags & protocol.FLAG_NO_OPEN_SUPPORT
    assert flags & protocol.FLAG_NO_OPENDIR_SUPPORT
    assert not flags & (1 << 20)  # POSIX_ACL: the image's ACLs are shown, not enforced
    assert peer.ready.wait(10)
    peer.unmount()


def test_a_kernel_that_is_too_old(made: Sample) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    body = protocol.INIT_IN.pack(7, 19, 0, 0)
    header = protocol.IN_HEADER.pack(40 + len(body), Opcode.INIT, 2, 0, 0, 0, 0, 0)
    ours.sendall(header + body)
    with ours, Server(made.view(), theirs.detach()) as tested:
        with pytest.raises(OSError, match="too old"):
            tested.run(lambda: None)
        assert protocol.OUT_HEADER.unpack_from(ours.recv(100))[1] == -errno.EPROTO


def test_unmounted_before_it_began(made: Sample) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with Server(made.view(), theirs.detach()) as tested:
        with pytest.raises(OSError, match="unmounted"):
            tested.run(lambda: None)


def test_entries_and_attributes(kernel: Kernel, made: Sample) -> None:
    code, body = kernel.ask(Opcode.LOOKUP, 1, b"far\0")
    nodeid, _, valid, attr_valid, _, _, *attributes = protocol.ENTRY_OUT.unpack(body)
    assert nodeid == made.view().resolve(b"/far") == attributes[0]
    assert min(valid, attr_valid) > 86400
    size, blocks, *times = attributes[1:6]
    assert (size, blocks, times) == (100, 8, [1 << 33] * 3)
    mode, links, uid, gid = attributes[9:13]
    assert (mode, links, uid, gid) == (stat.S_IFREG | 0o644, 1, (1 << 32) - 2, 1 << 31)
    code, body = kernel.ask(Opcode.GETATTR, nodeid, bytes(16))
    assert code == 0
    assert list(protocol.ATTR_OUT.unpack(body)[3:]) == attributes


def test_times_before_1970_and_devices(kernel: Kernel) -> None:
    code, body = kernel.ask(Opcode.LOOKUP, 1, b"old\0")
    attributes = protocol.ENTRY_OUT.unpack(body)[6:]
    assert (code, attributes[4], attributes[7]) == (0, -5, 25)
    _, body = kernel.ask(Opcode.LOOKUP, 1, b"disk\0")
    assert protocol.ENTRY_OUT.unpack(body)[6 + 13] == os.makedev(259, 70000)


def test_a_missing_name_is_remembered_as_missing(kernel: Kernel) -> None:
    for name in (b"no", b"-", b"!", b"01", b"\xff"):
        code, body = kernel.ask(Opcode.LOOKUP, 1, name + b"\0")
        nodeid, _, valid, *_ = protocol.ENTRY_OUT.unpack(body)
        assert (code, nodeid) == (0, 0)
        assert valid > 86400


def test_handles_of_nfs_come_back(kernel: Kernel) -> None:
    inline = kernel.lookup(b"inline")
    assert kernel.lookup(b".", inline) == inline
    many = kernel.lookup(b"many")
    assert kernel.lookup(b".", many) == many
    assert kernel.lookup(b"..", many) == 1
    assert kernel.lookup(b"..", 1) == 1


def parse(body: bytes, *, plus: bool) -> list[tuple[int, bytes, int, int]]:
    """(next offset, name, nodeid or inode, type) of a directory reply."""
    entries = []
    while body:
        nodeid = None
        if plus:
            nodeid = protocol.ENTRY_OUT.unpack_from(body)[0]
            body = body[protocol.ENTRY_SIZE :]
        ino, offset, length, kind = protocol.DIRENT.unpack_from(body)
        name = body[protocol.DIRENT_SIZE : protocol.DIRENT_SIZE + length]
        body = body[protocol.DIRENT_SIZE + length + -length % 8 :]
        entries.append((offset, name, ino if nodeid is None else nodeid, kind))
    return entries


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [300, 4096, 1 << 17])
def test_directories_in_pieces(kernel: Kernel, plus: bool, size: int) -> None:
    opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
    nodeid = kernel.lookup(b"many")
    offset = 0
    names = []
    while True:
        code, body = kernel.ask(opcode, nodeid, protocol.READ_IN.pack(0, offset, size, 0, 0, 0, 0))
        assert code == 0
        assert len(body) <= size
        entries = parse(body, plus=plus)
        if not entries:
            break
        offset = entries[-1][0]
        names += [name for _, name, _, _ in entries]
        assert {kind for _, name, _, kind in entries if name.startswith(b"entry")} <= {8}
    assert names == [b".", b"..", *(b"entry-%04d" % number for number in range(600))]


def test_directories_of_a_file(kernel: Kernel) -> None:
    body = protocol.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)
    assert kernel.ask(Opcode.READDIRPLUS, kernel.lookup(b"inline"), body)[0] == errno.ENOTDIR


def test_content(kernel: Kernel, made: Sample) -> None:
    for path, content in made.contents.items():
        if path.count(b"/") == 1:
            nodeid = kernel.lookup(path[1:])
            assert kernel.read(nodeid, 0, 65536) == (0, content[:65536])
            assert kernel.read(nodeid, 4096, 65536) == (0, content[4096 : 4096 + 65536])
            assert kernel.read(nodeid, len(content), 4096) == (0, b"")


def test_links(kernel: Kernel) -> None:
    assert kernel.ask(Opcode.READLINK, kernel.lookup(b"symlink")) == (0, b"inline")
    assert kernel.ask(Opcode.READLINK, kernel.lookup(b"long-symlink")) == (0, b"x" * 4095)
    assert kernel.ask(Opcode.READLINK, kernel.lookup(b"inline"))[0] == errno.EINVAL


def test_xattrs(kernel: Kernel) -> None:
    nodeid = kernel.lookup(b"xattrs")
    ask = protocol.GETXATTR_IN.pack
    code, body = kernel.ask(Opcode.LISTXATTR, nodeid, ask(0, 0))
    assert code == 0
    (size, _) = protocol.GETXATTR_OUT.unpack(body)
    code, body = kernel.ask(Opcode.LISTXATTR, nodeid, ask(size, 0))
    assert len(body) == size
    names = set(body.split(b"\0")[:-1])
    assert b"trusted.overlay.redirect" in names
    assert len(names) == 6
    _, body = kernel.ask(Opcode.LISTXATTR, nodeid, ask(size, 0), uid=1000)
    assert set(body.split(b"\0")[:-1]) == {
        name for name in names if not name.startswith(b"trusted.")
    }
    assert kernel.ask(Opcode.LISTXATTR, nodeid, ask(3, 0))[0] == errno.ERANGE
    get = b"user.note\0"
    assert kernel.ask(Opcode.GETXATTR, nodeid, ask(100, 0) + get) == (0, b"hello")
    code, body = kernel.ask(Opcode.GETXATTR, nodeid, ask(0, 0) + get)
    assert protocol.GETXATTR_OUT.unpack(body)[0] == 5
    assert kernel.ask(Opcode.GETXATTR, nodeid, ask(4, 0) + get)[0] == errno.ERANGE
    assert kernel.ask(Opcode.GETXATTR, nodeid, ask(9, 0) + b"user.no\0")[0] == errno.ENODATA
    redirect = ask(100, 0) + b"trusted.overlay.redirect\0"
    assert kernel.ask(Opcode.GETXATTR, nodeid, redirect) == (0, b"/of the tree")
    assert kernel.ask(Opcode.GETXATTR, kernel.lookup(b"old"), redirect)[0] == errno.ENODATA


def test_a_class_of_xattrs_that_no_inode_has_is_not_supported(kernel: Kernel) -> None:
    nodeid = kernel.lookup(b"xattrs")
    for _ in range(20):  # by then all of the image was looked at
        body = protocol.GETXATTR_IN.pack(100, 0) + b"user.note\0"
        assert kernel.ask(Opcode.GETXATTR, nodeid, body) == (0, b"hello")
    for name in (b"security.selinux", b"system.posix_acl_access", b"system.posix_acl_default"):
        body = protocol.GETXATTR_IN.pack(100, 0) + name + b"\0"
        assert kernel.ask(Opcode.GETXATTR, nodeid, body)[0] == errno.EOPNOTSUPP
    body = protocol.GETXATTR_IN.pack(100, 0) + b"security.ima\0"
    assert kernel.ask(Opcode.GETXATTR, nodeid, body)[0] == errno.ENODATA


def test_where_no_xattrs_are_the_kernel_stops_asking(tmp_path: Path) -> None:
    from cfsrepo.formats.tree import directory
    from tests.fuse.fuse_helpers import Maker

    maker = Maker()
    root = directory()
    assert root.entries is not None
    hidden = maker.file(bytes(100))
    hidden.xattrs = {b"trusted.x": b"1"}
    root.entries[b"file"] = hidden
    made = maker.write(root, tmp_path)
    body = protocol.GETXATTR_IN.pack(100, 0) + b"user.x\0"
    for trusted, expected in ((True, errno.ENODATA), (False, errno.ENOSYS)):
        peer = Kernel(made.view(), trusted=trusted)
        peer.init()
        nodeid = peer.lookup(b"file")
        for _ in range(3):
            peer.ask(Opcode.GETXATTR, nodeid, body)
        assert peer.ask(Opcode.GETXATTR, nodeid, body)[0] == expected
        # A list is always answered: an error there is seen by the caller.
        assert peer.ask(Opcode.LISTXATTR, nodeid, protocol.GETXATTR_IN.pack(0, 0))[0] == 0
        peer.unmount()


@pytest.mark.parametrize(
    ("name", "mask", "expected"),
    [
        (b"inline", os.R_OK, 0),
        (b"inline", os.W_OK, errno.EROFS),
        (b"inline", os.X_OK, errno.EACCES),
        (b"large", os.X_OK, 0),
        (b"empty-dir", os.X_OK | os.R_OK, 0),
        (b"7f", os.X_OK, 0),
        (b"7f", os.W_OK, errno.EROFS),
        (b"null", os.W_OK, 0),
        (b"null", os.X_OK, errno.EACCES),
    ],
)
def test_access(kernel: Kernel, name: bytes, mask: int, expected: int) -> None:
    body = protocol.ACCESS_IN.pack(mask, 0)
    assert kernel.ask(Opcode.ACCESS, kernel.lookup(name), body)[0] == expected


@pytest.mark.parametrize("opcode", sorted(protocol.WRITING))
def test_every_write_is_refused(kernel: Kernel, opcode: int) -> None:
    assert kernel.ask(opcode, 1, bytes(64))[0] == errno.EROFS


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.OPENDIR, 25, 46, 999])
def test_what_is_not_needed_is_not_implemented(kernel: Kernel, opcode: int) -> None:
    """OPEN and OPENDIR among them: the kernel then opens without asking."""
    assert kernel.ask(opcode, 1, bytes(64))[0] == errno.ENOSYS


def test_statfs(kernel: Kernel, made: Sample) -> None:
    code, body = kernel.ask(Opcode.STATFS)
    blocks, free, available, files, files_free, size, name_max, _ = protocol.STATFS_OUT.unpack(body)
    assert code == 0
    assert (free, available, files_free, size, name_max) == (0, 0, 0, 4096, 255)
    assert (blocks, files) == (made.view().usage().blocks, made.image.inode_count)


def test_forgetting_gets_no_reply(kernel: Kernel) -> None:
    kernel.send(Opcode.FORGET, 50, bytes(8))
    kernel.send(Opcode.BATCH_FORGET, 0, bytes(24))
    assert kernel.lookup(b"inline")


def test_inodes_that_are_none(kernel: Kernel) -> None:
    for nodeid in (2, 35, 1 << 40, (1 << 64) - 1):
        assert kernel.ask(Opcode.GETATTR, nodeid, bytes(16))[0] == errno.EIO
        assert kernel.ask(Opcode.LOOKUP, nodeid, b"x\0")[0] == errno.EIO
        assert kernel.read(nodeid, 0, 4096)[0] == errno.EIO


def test_damage_is_an_error_of_that_file_only(kernel: Kernel, made: Sample) -> None:
    made.objects[b"/file-4096"].write_bytes(bytes(4096))
    made.objects[b"/file-4095"].unlink()
    assert kernel.read(kernel.lookup(b"file-4096"), 0, 4096)[0] == errno.EIO
    assert kernel.read(kernel.lookup(b"file-4095"), 0, 4096)[0] == errno.EIO
    assert kernel.read(kernel.lookup(b"file-4097"), 0, 4096)[0] == 0


class StuckObjects:
    """Objects on a disk that does not answer until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.waiting = 0

    def open(self, backing: Backing, size: int) -> StuckContent:
        return StuckContent(self)

    def open_ready(self, backing: Backing, size: int) -> StuckContent | None:
        return StuckContent(self)


class StuckContent:
    held = 0

    def __init__(self, objects: StuckObjects) -> None:
        self._objects = objects

    def read(self, offset: int, size: int) -> Buffer:
        self._objects.waiting += 1
        self._objects.go.wait()
        return bytes(size)

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return None

    def close(self) -> None:
        pass


def test_a_stuck_disk_does_not_hold_up_metadata(made: Sample) -> None:
    objects = StuckObjects()
    peer = Kernel(ImageView(made.image, objects))
    peer.init()
    nodeid = peer.lookup(b"large")
    body = protocol.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)
    reads = {peer.send(Opcode.READ, nodeid, body) for _ in range(5 * direct._THREADS)}
    for _ in range(200):
        assert peer.lookup(b"inline") > 1
        assert peer.ask(Opcode.GETATTR, nodeid, bytes(16))[0] == 0
    deadline = time.monotonic() + 10
    while objects.waiting < direct._THREADS - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert objects.waiting == direct._THREADS - 1
    objects.go.set()
    answered = set()
    for _ in range(len(reads)):
        unique, code, data = peer.receive()
        assert (code, data) == (0, bytes(4096))
        answered.add(unique)
    assert answered == reads
    peer.unmount()


def test_requests_are_counted(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.lookup(b"inline")
    kernel.ask(999, 1, b"")
    numbers = kernel.server.numbers()
    assert numbers["by_request"] == {"lookup": 3, "opcode 999": 1}
    assert numbers["requests"] == 4
