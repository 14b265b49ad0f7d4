"""Names of images: symbolic links below `streams/refs` and `images/refs`, and how tags are spelled.

    streams/refs/oci/ENC     -> ../../oci-manifest-sha256:HEX    a tag of an OCI image
    streams/refs/NAME        -> (../)*CONTENT_ID                 any other stream that is kept
    images/refs/NAME         -> (../)*HEX                        a name of an image file
    .symlink-*               a link on its way to replace another

ENC is the tag with `%` and `/` as `%25` and `%2F`; other NAMEs may have directories, which go with
the last name in them. A link is made or replaced atomically. Nothing that a link says is ever
followed: its last component is read.

Tags and names of image files are one namespace: `Repository.tag` and `Repository.name_image` take a
name from the other kind, as `podman tag` and `ostree refs` move a name that exists.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from cfsrepo.errors import UsageError
from cfsrepo.store.temporary import make_directory

TEMPORARY_PREFIX: Final = ".symlink-"
OCI_DIRECTORY: Final = "oci"
_NAME_MAX: Final = 255  # bytes in a file name
_DEPTH_MAX: Final = 64  # directories in a name; cfsctl recurses over them
_TAGS: Final = f"streams/refs/{OCI_DIRECTORY}"
_IMAGE_NAMES: Final = "images/refs"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})
_RETRIES: Final = 100


def encode_tag(name: str) -> str:
    """The file name of the tag `name`; `UsageError` where it cannot be a tag."""
    if not name:
        raise UsageError("a tag cannot be empty")
    _check_characters(name)
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
    """`name` as the path of a name of an image file; `UsageError` where it cannot be one."""
    parts = name.split("/")
    if len(parts) > _DEPTH_MAX or any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"{name[:80]}: not a name for an image")
    _check_characters(name)
    if any(len(os.fsencode(part)) > _NAME_MAX for part in parts):
        raise UsageError(f"{name[:40]}...: a part of the name is longer than {_NAME_MAX} bytes")
    return name


def _check_characters(name: str) -> None:
    if name.startswith("@"):
        raise UsageError(f"{name}: a name cannot begin with '@', which marks digests")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in name):
        raise UsageError(f"{name}: a name cannot have control characters")


def paths_of(name: str) -> list[str]:
    """Where the links called `name` are: as a tag, as a name of an image file."""
    paths = []
    with suppress(UsageError):
        paths.append(f"{_TAGS}/{encode_tag(name)}")
    with suppress(UsageError):
        paths.append(f"{_IMAGE_NAMES}/{check_path(name)}")
    return paths


def replace_link(root: int, path: str, target: str) -> None:
    """Make the link `path` below the directory `root` point to `target`, atomically.

    Directories on the way are made. A link that says so already is left alone. `UsageError` where
    another name is in the way: no name can begin with another one and a slash.
    """
    name = path.rpartition("/")[2]
    for last in (False,) * _RETRIES + (True,):
        try:
            directory = _open_parent(root, path)
            try:
                _replace(root, directory, name, target)
            except OSError as error:
                # Python names what the link says, or the last part of its path.
                raise OSError(error.errno, error.strerror, path) from None
            finally:
                os.close(directory)
            return
        except FileNotFoundError:  # `remove_link` took an empty directory away meanwhile
            if last:
                raise
        except IsADirectoryError:
            _remove_empty(root, path)


def _replace(root: int, directory: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
        return
    except FileExistsError:
        if target_of(directory, name) == target:
            return
    temporary = TEMPORARY_PREFIX + os.urandom(8).hex()
    os.symlink(target, temporary, dir_fd=root)
    try:
        os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=root)
        raise


def _open_parent(root: int, path: str) -> int:
    """Open the directory of `path` below `root`; what is missing is made. Follows no link."""
    fd = os.dup(root)
    try:
        at = ""
        for part in path.split("/")[:-1]:
            at = f"{at}/{part}" if at else part
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                make_directory(part, fd)
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError) and error.errno in _NO_DIRECTORY:
            raise UsageError(
                f"{_name_in(path)}: no other name can begin with '{_name_in(at)}/'",
                hint=f"'{_name_in(at)}' is a name itself",
            ) from None
        raise
    return fd


def _name_in(path: str) -> str:
    return path.partition("/refs/")[2] or path


def remove_link(root: int, path: str) -> str | None:
    """Remove the link `path`, and the directories of names that are empty then.

    Returns the directory in which something was removed last; None where there is no such link.
    """
    if target_of(root, path) is None:
        return None
    try:
        os.unlink(path, dir_fd=root)
    except FileNotFoundError:
        return None
    parent = os.path.dirname(path)
    while parent not in (_TAGS, _IMAGE_NAMES):
        try:
            os.rmdir(parent, dir_fd=root)
        except OSError:  # not empty: other names
            break
        parent = os.path.dirname(parent)
    return parent


def _remove_empty(root: int, path: str) -> None:
    """Remove the directory `path` where a name is to be, unless there is something in it."""
    try:
        for _, directories, _, fd in os.fwalk(path, topdown=False, dir_fd=root):
            for directory in directories:
                os.rmdir(directory, dir_fd=fd)
        os.rmdir(path, dir_fd=root)
    except FileNotFoundError:
        return
    except OSError:
        name = _name_in(path)
        raise UsageError(f"{name}: other names begin with '{name}/'") from None


def target_of(root: int, path: str) -> str | None:
    """What the link says; None where there is no link."""
    try:
        return os.readlink(path, dir_fd=root)
    except OSError:
        return None


def walk(root: int, path: str) -> Iterator[tuple[str, str]]:
    """Every link below the directory `path` of `root`: (its name below `path`, its target).

    No order. Nothing for a directory that does not exist; other files are left out.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            fd = os.open(f"{path}/{prefix}", _DIRECTORY, dir_fd=root)
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in _NO_DIRECTORY:
                continue  # removed meanwhile, or no directory any more
            raise
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
