"""From a reference to what it stands for. The one place that knows all transports.

Modules of a transport are imported when it is asked for: most commands need none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import ImageDestination, ImageSource
from cfsrepo.oci.transports.reference import (
    ArchiveReference,
    LayoutReference,
    Reference,
)

_DEFAULT = Access()


@contextlib.contextmanager
def open_source(reference: Reference, access: Access = _DEFAULT) -> Iterator[ImageSource]:
    """The image that `reference` means, to be read; closed with the block.

    NotFoundError where there is nothing, InputError where it is damaged, TransportError where a
    registry cannot be reached or refuses.
    """
    source = _open(reference, access)
    try:
        yield source
    finally:
        source.close()


@contextlib.contextmanager
def open_destination(
    reference: Reference, access: Access = _DEFAULT, mounts: Sequence[str] = ()
) -> Iterator[ImageDestination]:
    """Where `reference` leads, to be written to; closed with the block.

    `mounts`: names in the same registry from which it may take over blobs.
    """
    destination = _open_destination(reference, access, mounts)
    try:
        yield destination
    finally:
        destination.close()


def _open_destination(
    reference: Reference, access: Access, mounts: Sequence[str]
) -> ImageDestination:
    if isinstance(reference, LayoutReference):
        from cfsrepo.oci.transports.layoutwriter import LayoutWriter

        return LayoutWriter(reference.directory, reference.ref)
    if isinstance(reference, ArchiveReference):
        from cfsrepo.oci.transports.archivewriter import DockerArchiveWriter, OciArchiveWriter

        writer = DockerArchiveWriter if reference.docker else OciArchiveWriter
        return writer(reference.file, reference.ref)
    from cfsrepo.oci.transports.registrydestination import RegistryDestination

    return RegistryDestination(reference, access, mounts)


def _open(reference: Reference, access: Access) -> ImageSource:
    if isinstance(reference, LayoutReference):
        from cfsrepo.oci.transports.imagelayout import Layout

        return Layout(reference.directory, reference.ref)
    if isinstance(reference, ArchiveReference):
        from cfsrepo.oci.transports.imagearchive import DockerArchive, OciArchive

        return (DockerArchive if reference.docker else OciArchive)(reference.file, reference.ref)
    from cfsrepo.oci.transports.registrysource import RegistrySource

    return RegistrySource(reference, access)
