"""Copying an image from one place to another, byte for byte; a push is that from a repository."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from cfsrepo.errors import InputError, RepositoryError
from cfsrepo.oci.documents import (
    CONFIG_TYPES,
    INDEX_TYPES,
    Descriptor,
    Platform,
    parse_index,
    parse_manifest,
)
from cfsrepo.oci.repositorysource import RepositorySource
from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import ImageDestination, ImageSource
from cfsrepo.oci.transports.open import open_destination, open_source
from cfsrepo.oci.transports.platforms import choose
from cfsrepo.oci.transports.reference import Reference, RegistryReference
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store.repository import Repository

_SHORT = len("sha256:") + 12
_DEFAULT_ACCESS = Access()


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did."""

    manifest_digest: str
    """Of the manifest or index that the destination's name means now."""
    blobs: int
    sent: int
    """Blobs that the destination did not have."""


def push(
    repo: Repository,
    image: str,
    destination: Reference,
    *,
    recompress: bool = False,
    access: Access = _DEFAULT_ACCESS,
    progress: Progress | None = None,
) -> Copied:
    """Push the image of the repository to `destination`.

    RepositoryError where a packed layer was not kept, unless `recompress`: then it is packed
    afresh, and the image there has another digest, which `progress` is told.
    """
    progress = progress or NoProgress()
    with open_destination(destination, access, _mounts(image, destination)) as target:
        with RepositorySource(repo, image, plain=target.plain_layers) as source:
            if missing := source.missing():
                if not recompress:
                    raise RepositoryError(
                        f"{image}: {len(missing)} packed layers were not kept",
                        hint="--recompress packs them afresh, which changes the image's digest",
                    )
                source.repack()
                digest = source.find()[0].digest
                progress.message(f"layers were packed afresh: the manifest is {digest} now")
            return copy_image(source, target, progress=progress)


def copy(
    source: Reference,
    destination: Reference,
    *,
    platform: Platform | None = None,
    every_platform: bool = False,
    access: Access = _DEFAULT_ACCESS,
    progress: Progress | None = None,
) -> Copied:
    """Copy an image between two references, without a repository.

    `every_platform`: an image for several platforms is copied whole, with its index.
    """
    progress = progress or NoProgress()
    mounts = []
    if isinstance(source, RegistryReference) and isinstance(destination, RegistryReference):
        mounts = [source.path] if source.host == destination.host else []
    with (
        open_source(source, access) as opened,
        open_destination(destination, access, mounts) as target,
    ):
        return copy_image(
            opened, target, platform=platform, every_platform=every_platform, progress=progress
        )


def copy_image(
    source: ImageSource,
    destination: ImageDestination,
    *,
    platform: Platform | None = None,
    every_platform: bool = False,
    progress: Progress,
) -> Copied:
    """Copy what `source` means: blobs first, then manifests, the one that is named last."""
    copier = _Copier(source, destination, progress)
    if every_platform:
        found = source.find()
        if len(found) != 1:
            raise InputError(f"{source.name}: {len(found)} images without an index")
        copier.copy(found[0], named=True)
        top = found[0]
    else:
        top = choose(source, platform)
        copier.copy(top, named=True)
    destination.finish()
    return Copied(top.digest, copier.blobs, copier.sent)


class _Copier:
    """Copies manifests with all they need."""

    def __init__(
        self, source: ImageSource, destination: ImageDestination, progress: Progress
    ) -> None:
        self.blobs = 0
        self.sent = 0
        self._source = source
        self._destination = destination
        self._progress = progress
        self._seen: set[str] = set()

    def copy(self, descriptor: Descriptor, *, named: bool) -> None:
        """Copy a manifest, or an index with its manifests (indexes nest no deeper than two)."""
        data = self._source.read_manifest(descriptor)
        name = f"{self._source.name}: {descriptor.digest}"
        if descriptor.media_type in INDEX_TYPES:
            for item in parse_index(data, name):
                if item.media_type in INDEX_TYPES:
                    raise InputError(f"{name}: an index within an index")
                self.copy(item, named=False)
        else:
            manifest = parse_manifest(data, name)
            assert manifest.config.media_type in CONFIG_TYPES
            for blob in (*manifest.layers, manifest.config):
                self._copy_blob(blob)
        self._destination.put_manifest(data, descriptor, named=named)

    def _copy_blob(self, descriptor: Descriptor) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        self.blobs += 1
        if self._destination.has_blob(descriptor):
            return
        task = f"blob {descriptor.digest[:_SHORT]}"
        self._progress.start(task, descriptor.size)
        with self._source.open_blob(descriptor) as blob:
            self._destination.put_blob(blob, functools.partial(self._progress.advance, task))
        self._progress.finish(task)
        self.sent += 1


def _mounts(image: str, destination: Reference) -> list[str]:
    """The name that an image called as in a registry has in the registry it is pushed to."""
    host = destination.host if isinstance(destination, RegistryReference) else ""
    if not host or not image.startswith(f"{host}/"):
        return []
    return [image[len(host) + 1 :].partition("@")[0].rpartition(":")[0]]
