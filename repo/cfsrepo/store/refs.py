"""Names of images: symbolic links below `streams/refs` and `images/refs`, and how tags are spelled.

    streams/refs/oci/ENC     -> ../../oci-manifest-sha256:HEX    a tag of an OCI image
    streams/refs/NAME        -> (../)*CONTENT_ID                 any other stream that is kept
    images/refs/NAME         -> (../)*HEX                        a name of an image file
    .symlink-*               a link on its way to replace another

ENC is the tag with `%` and `/` as `%25` and `%2F`; other NAMEs may have directories. A link is made
or replaced atomically. Nothing that a link says is ever followed: its last component is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from cfsrepo.errors import UsageError
from cfsrepo.store.temporary import make_directory

TEMPORARY_PREFIX: Final = ".symlink-"
OCI_DIRECTORY: Final = "oci"
_NAME_MAX: Final = 255  # bytes in a file name
_DEPTH_MAX: Final = 64  # directories in a name; cfsctl recurses over them


def encode_tag(name: str) -> str:
    """The file name of the tag `name`; `UsageError` where it cannot be a tag."""
    if not name:
        raise UsageError("a tag cannot be empty")
    if name.startswith("@"):
        raise UsageError(f"{name}: a tag cannot begin with '@', which marks digests")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in name):
        raise UsageError(f"{name}: a tag cannot have control characters")
    encoded = name.replace("%", "%25").replace("/", "%2F")
    if encoded in (".", ".."):
        raise UsageError(f"{name}: not a tag")
    if len(os.fsencode(encoded)) > _NAME_MAX:
        raise UsageError(f"{name[:40]}...: tag longer than {_NAME_MAX} bytes")
    return encoded


def decode_tag(encoded: str) -> str:
    """The tag that the file name `encoded` spells; other `%` sequences stay as they are."""
    parts = encoded.split("%")
    result = [parts[0]]
    for part in parts[1:]:
        if part.startswith("25"):
            result.append("%" + part[2:])
        elif part.startswith("2F"):
            result.append("/" + part[2:])
        else:
            result.append("%" + part)
    return "".join(result)


def check_path(name: str) -> str:
    """`name` as a relative path of a ref; `UsageError` where it could leave its directory."""
    parts = name.split("/")
    if len(parts) > _DEPTH_MAX or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise UsageError(f"{name}: not a name for a reference")
    if any(len(os.fsencode(part)) > _NAME_MAX for part in parts):
        raise UsageError(f"{name[:40]}...: a part of the name is longer than {_NAME_MAX} bytes")
    return name


def replace_link(root: int, path: str, target: str) -> None:
    """Make the link `path` below the directory `root` point to `target`, atomically.

    Directories on the way are made. A link that says so already is left alone.
    """
    try:
        _symlink(target, root, path)
        return
    except FileNotFoundError:
        _make_parents(root, os.path.dirname(path))
    except FileExistsError:
        if _target(root, path) == target:
            return
    temporary = TEMPORARY_PREFIX + os.urandom(8).hex()
    _symlink(target, root, temporary)
    try:
        os.rename(temporary, path, src_dir_fd=root, dst_dir_fd=root)
    except OSError:
        os.unlink(temporary, dir_fd=root)
        raise


def _symlink(target: str, root: int, path: str) -> None:
    try:
        os.symlink(target, path, dir_fd=root)
    except OSError as error:
        # Python names what the link says first, which is not what failed.
        raise OSError(error.errno, error.strerror, path) from None


def _target(root: int, path: str) -> str | None:
    """What the link says; None where there is no link."""
    try:
        return os.readlink(path, dir_fd=root)
    except OSError:
        return None


def _make_parents(root: int, parent: str) -> None:
    at = ""
    for part in parent.split("/"):
        at = f"{at}/{part}" if at else part
        make_directory(at, root)


def walk(root: int, path: str) -> Iterator[tuple[str, str]]:
    """Every link below the directory `path` of `root`: (its name below `path`, its target).

    No order. Nothing for a directory that does not exist; other files are left out.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            fd = os.open(
                f"{path}/{prefix}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root
            )
        except FileNotFoundError:
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        try:
                            yield prefix + entry.name, os.readlink(entry.name, dir_fd=fd)
                        except FileNotFoundError:
                            continue  # removed meanwhile
                    elif entry.is_dir(follow_symlinks=False):
                        pending.append(f"{prefix}{entry.name}/")
        finally:
            os.close(fd)


def last_component(target: str) -> str:
    """What a link's target names: its last component."""
    return target.rpartition("/")[2]
