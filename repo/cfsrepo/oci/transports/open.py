"""From a reference to what it stands for. The one place that knows all transports.

Modules of a transport are imported when it is asked for: most commands need none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cfsrepo.oci.transports.access import Access
from cfsrepo.oci.transports.blob import ImageSource
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


def _open(reference: Reference, access: Access) -> ImageSource:
    if isinstance(reference, LayoutReference):
        from cfsrepo.oci.transports.imagelayout import Layout

        return Layout(reference.directory, reference.ref)
    if isinstance(reference, ArchiveReference):
        from cfsrepo.oci.transports.imagearchive import DockerArchive, OciArchive

        return (DockerArchive if reference.docker else OciArchive)(reference.file, reference.ref)
    from cfsrepo.oci.transports.registrysource import RegistrySource

    return RegistrySource(reference, access)
