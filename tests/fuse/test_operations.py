"""The pyfuse3 adapter: its operations called inside trio, without a mount."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")

from cfsfuse import operations as operations_module  # noqa: E402
from cfsfuse.operations import Operations  # noqa: E402
from tests.fuse.fuse_helpers import Sample, sample  # noqa: E402


@dataclass
class Context:
    """What the adapter reads of a RequestContext."""

    uid: int = 0


def run(call: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(call)


def refused(code: int, operation: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    async def call() -> None:
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operation(*arguments)
        assert caught.value.errno == code

    trio.run(call)


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tmp_path)


@pytest.fixture
def operations(made: Sample) -> Operations:
    return Operations(made.view())


def entry(operations: Operations, name: bytes, parent: int = 1) -> Any:
    async def call() -> Any:
        return await operations.lookup(parent, name, Context())  # type: ignore[arg-type]

    return trio.run(call)


def test_entries(operations: Operations, made: Sample) -> None:
    found = entry(operations, b"far")
    assert found.st_ino == made.view().resolve(b"/far")
    assert (found.st_uid, found.st_gid, found.st_size) == ((1 << 32) - 2, 1 << 31, 100)
    assert found.st_mtime_ns == (1 << 33) * 1_000_000_000
    assert found.entry_timeout >= 86400
    assert entry(operations, b"old").st_mtime_ns == -5 * 1_000_000_000 + 25
    # One object serves all requests for an inode.
    assert entry(operations, b"link-a") is entry(operations, b"link-b")


def test_a_missing_name_is_remembered_as_missing(operations: Operations) -> None:
    found = entry(operations, b"no")
    assert (found.st_ino, found.entry_timeout >= 86400) == (0, True)


def test_the_root_is_number_one(operations: Operations) -> None:
    many = entry(operations, b"many").st_ino
    assert entry(operations, b"..", many).st_ino == 1

    async def call() -> Any:
        return await operations.getattr(1, Context())  # type: ignore[arg-type]

    assert trio.run(call).st_nlink > 2


def test_reading(operations: Operations, made: Sample) -> None:
    async def call() -> None:
        for name in (b"empty", b"inline", b"file-4097", b"large"):
            content = made.contents[b"/" + name]
            found = await operations.lookup(1, name, Context())  # type: ignore[arg-type]
            parts = [
                bytes(await operations.read(found.st_ino, offset, 131072))
                for offset in range(0, len(content) + 1, 131072)
            ]
            assert b"".join(parts) == content

    trio.run(call)


@pytest.mark.parametrize("stateless", [False, True])
def test_a_handle_is_the_inode_or_is_not_needed(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, stateless: bool
) -> None:
    monkeypatch.setattr(operations_module, "STATELESS", stateless)
    inode = entry(operations, b"large").st_ino
    if stateless:
        refused(errno.ENOSYS, operations.open, inode, 0, Context())
        refused(errno.ENOSYS, operations.opendir, 1, Context())
    else:
        info = run(lambda: operations.open(inode, 0, Context()))  # type: ignore[arg-type]
        assert (info.fh, info.keep_cache) == (inode, True)
        assert run(lambda: operations.opendir(1, Context())) == 1  # type: ignore[arg-type]


def test_damage_is_eio(operations: Operations, made: Sample) -> None:
    made.objects[b"/file-4096"].unlink()
    refused(errno.EIO, operations.read, entry(operations, b"file-4096").st_ino, 0, 10)


def test_links_and_special_files(operations: Operations) -> None:
    async def call() -> Any:
        number = (await operations.lookup(1, b"symlink", Context())).st_ino  # type: ignore[arg-type]
        return await operations.readlink(number, Context())  # type: ignore[arg-type]

    assert trio.run(call) == b"inline"
    refused(errno.EINVAL, operations.readlink, entry(operations, b"inline").st_ino, Context())
    refused(errno.EINVAL, operations.read, entry(operations, b"fifo").st_ino, 0, 1)


def test_xattrs(operations: Operations) -> None:
    number = entry(operations, b"xattrs").st_ino

    async def call() -> tuple[Any, Any, Any]:
        return (
            await operations.listxattr(number, Context()),  # type: ignore[arg-type]
            await operations.listxattr(number, Context(uid=1000)),  # type: ignore[arg-type]
            await operations.getxattr(number, b"user.note", Context()),  # type: ignore[arg-type]
        )

    everything, some, value = trio.run(call)
    assert (len(everything), len(some), value) == (6, 3, b"hello")
    refused(errno.ENODATA, operations.getxattr, number, b"user.no", Context())


def test_access(operations: Operations) -> None:
    async def call() -> tuple[bool, bool]:
        plain = (await operations.lookup(1, b"inline", Context())).st_ino  # type: ignore[arg-type]
        program = (await operations.lookup(1, b"large", Context())).st_ino  # type: ignore[arg-type]
        return (
            await operations.access(plain, 4, Context()),  # type: ignore[arg-type]
            await operations.access(program, 1, Context()),  # type: ignore[arg-type]
        )

    assert trio.run(call) == (True, True)
    refused(errno.EACCES, operations.access, entry(operations, b"inline").st_ino, 1, Context())
    refused(errno.EROFS, operations.access, 1, 2, Context())


@pytest.mark.parametrize(
    "name",
    [
        "create",
        "link",
        "mkdir",
        "mknod",
        "removexattr",
        "rename",
        "rmdir",
        "setattr",
        "setxattr",
        "symlink",
        "unlink",
        "write",
    ],
)
def test_every_write_is_refused(operations: Operations, name: str) -> None:
    refused(errno.EROFS, getattr(operations, name))


def test_statfs_and_numbers(operations: Operations, made: Sample) -> None:
    async def call() -> Any:
        return await operations.statfs(Context())  # type: ignore[arg-type]

    assert trio.run(call).f_files == made.image.inode_count
    assert operations.numbers()["by_request"] == {"statfs": 1}
    refused(errno.ENOSYS, operations.flush, 0)
