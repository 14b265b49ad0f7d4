"""`cfs tag IMAGE NAME`: give an image another name."""

from __future__ import annotations

from cfsrepo.images import names
from cfsrepo.store import ocistreams
from cfstools.context import open_repository
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        image = names.resolve(repository, args.image)
        if image.manifest_digest is not None:
            repository.tag(args.name, ocistreams.MANIFEST_PREFIX + image.manifest_digest)
        else:  # an image file without OCI documents
            repository.name_image(args.name, image.image_id)
    return 0
