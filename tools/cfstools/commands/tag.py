"""`cfs tag IMAGE NAME`: give an image another name."""

from __future__ import annotations

import argparse

from cfsrepo.images import names
from cfsrepo.store import ocistreams
from cfstools.context import open_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="name, tag, OCI digest or image id")
    parser.add_argument("name", metavar="NAME", help="the new tag; one that exists is moved")


def run(args: argparse.Namespace) -> int:
    with open_repository(args) as repository:
        image = names.resolve(repository, args.image)
        if image.manifest_digest is not None:
            repository.tag(args.name, ocistreams.MANIFEST_PREFIX + image.manifest_digest)
        else:  # an image file without OCI documents
            repository.name_image(args.name, image.image_id)
    return 0
