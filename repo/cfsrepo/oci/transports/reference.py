"""What a user calls an image outside of a repository, as containers-transports(5).

docker://HOST[:PORT]/NAME[:TAG|@DIGEST]   in a registry; the tag is `latest` where none is given
NAME[:TAG|@DIGEST]                        the same; which registry, registries.conf(5) says
oci:DIR[:REF]                             in an OCI image layout
oci-archive:FILE[:REF]                    in an OCI image layout in a tar archive
docker-archive:FILE[:NAME[:TAG]]          in what `docker save` writes
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Final

from cfsrepo.errors import UsageError, printable

DEFAULT_REGISTRY: Final = "docker.io"
"""Where container tools look for a name without a host."""
_OFFICIAL: Final = "library"  # what the default registry calls images without a user
# Of containers-transports(5), but none of ours.
_OTHER_TRANSPORTS: Final = frozenset(
    {"containers-storage", "dir", "docker-daemon", "ostree", "sif", "tarball"}
)
_HINT: Final = (
    "an image is named docker://HOST/NAME[:TAG], oci:DIR[:REF], oci-archive:FILE[:REF] or "
    "docker-archive:FILE[:REF]"
)

# The grammar of the reference package of distribution.
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_NAME_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """An image in a registry. `host` is empty in a bare name, which registries.conf completes."""

    host: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def version(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def default_name(self) -> str:
        """What the image is called in a repository when the user gives it no name."""
        name = f"{self.host}/{self.path}" if self.host else self.path
        return f"{name}@{self.digest}" if self.digest else f"{name}:{self.version}"

    def with_host(self, host: str) -> RegistryReference:
        """The same image of the registry `host`."""
        path = self.path
        if host == DEFAULT_REGISTRY and "/" not in path:
            path = f"{_OFFICIAL}/{path}"
        return replace(self, host=host, path=path)

    def __str__(self) -> str:
        return f"docker://{self.default_name()}" if self.host else self.default_name()


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An image in an OCI image layout: the directory, and which of its images (None: the only)."""

    directory: str
    ref: str | None

    def default_name(self) -> str:
        """What the image is called in a repository when the user gives it no name."""
        return _name_of_file(self.directory, self.ref)

    def __str__(self) -> str:
        return f"oci:{self.directory}" + (f":{self.ref}" if self.ref is not None else "")


@dataclass(frozen=True, slots=True)
class ArchiveReference:
    """An image in a tar archive: of an OCI layout, or (`docker`) as `docker save` writes it."""

    file: str
    ref: str | None
    docker: bool = False

    @property
    def transport(self) -> str:
        """The word before the colon."""
        return "docker-archive" if self.docker else "oci-archive"

    def default_name(self) -> str:
        """What the image is called in a repository when the user gives it no name."""
        return _name_of_file(os.path.splitext(self.file)[0], self.ref)

    def __str__(self) -> str:
        return f"{self.transport}:{self.file}" + (f":{self.ref}" if self.ref is not None else "")


Reference = RegistryReference | LayoutReference | ArchiveReference


def is_reference(text: str) -> bool:
    """Does `text` name its transport, so that it cannot be the name of something else?"""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and prefix in _TRANSPORTS and (prefix != "docker" or "://" in text)


def parse_reference(text: str) -> Reference:
    """What `text` means; UsageError where it means nothing.

    A path may hold colons: the longest file or directory that exists is meant; where none does,
    what follows the last colon in the last part of the path is the REF.
    """
    if "\0" in text:
        raise UsageError(f"{text}: NUL in a name")
    prefix, colon, rest = text.partition(":")
    if text.startswith("docker://"):
        return parse_registry_reference(text.removeprefix("docker://"), bare=False)
    if colon and prefix == "oci":
        return LayoutReference(*_split_path(text, rest))
    if colon and prefix in ("oci-archive", "docker-archive"):
        return ArchiveReference(
            *_split_path(text, rest, docker=prefix == "docker-archive"),
            docker=prefix == "docker-archive",
        )
    if colon and prefix in _OTHER_TRANSPORTS:
        raise UsageError(
            f"{text}: images of {prefix} are not read", hint=f"skopeo copy {text} oci:DIR makes one"
        )
    return parse_registry_reference(text)


_TRANSPORTS: Final = frozenset({"docker", "oci", "oci-archive", "docker-archive"})


def parse_registry_reference(text: str, *, bare: bool = True) -> RegistryReference:
    """`[HOST[:PORT]/]NAME[:TAG][@DIGEST]`. A first part with a dot or a colon, or `localhost`, is
    a host; without one the name is `bare`, or (not `bare`) one of the default registry."""
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _no_reference(text, "what follows '@' is no digest")
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        name = head
    else:
        tag = ""
        colon = ""
    if colon and not _TAG.fullmatch(tag):
        raise _no_reference(text, "what follows the colon is no tag")
    host, slash, path = name.partition("/")
    if not slash or not (host == "localhost" or any(char in host for char in ".:[")):
        host, path = "", name
    if host and not _HOST.fullmatch(host):
        raise _no_reference(text, f"'{host}' is no host")
    if not _PATH.fullmatch(path) or len(path) > _NAME_MAX:
        upper = path != path.lower()
        raise _no_reference(text, "a name is in lower case" if upper else "not a name of an image")
    found = RegistryReference(host, path, tag or (None if at else "latest"), digest or None)
    if host == DEFAULT_REGISTRY or (not host and not bare):
        return found.with_host(DEFAULT_REGISTRY)
    return found


def _split_path(text: str, rest: str, *, docker: bool = False) -> tuple[str, str | None]:
    end = len(rest)
    while end > 0:
        if os.path.exists(rest[:end]):
            break
        end = rest.rfind(":", 0, end)
    if end <= 0:
        # The name in a docker-archive has slashes itself.
        end = rest.find(":") if docker else rest.rfind(":", rest.rfind("/") + 1)
        if end < 0:
            end = len(rest)
    path, ref = rest[:end], rest[end + 1 :]
    if not path or (end < len(rest) and not ref):
        raise UsageError(f"{text}: incomplete", hint=_HINT)
    return path, ref or None


def _name_of_file(path: str, ref: str | None) -> str:
    if ref is not None and ("/" in ref or ":" in ref):
        return ref
    base = os.path.basename(os.path.abspath(path)) or "image"
    return f"{base}:{ref or 'latest'}"


def _no_reference(text: str, reason: str) -> UsageError:
    return UsageError(f"{printable(text)[:200]}: {reason}", hint=_HINT)
