"""`cfs pull`: an OCI image into the repository."""

from __future__ import annotations

import argparse
import json
import sys

from cfsrepo.oci.importer import pull
from cfsrepo.oci.merge import XattrMode
from cfstools.context import open_repository
from cfstools.progressbar import progress_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cfs pull`."""
    parser.add_argument("source", metavar="oci:DIR[:REF]", help="an image in an OCI image layout")
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="what to call it (default: DIR:REF, without path)"
    )
    parser.add_argument(
        "--xattrs",
        choices=[mode.value for mode in XattrMode],
        default=XattrMode.OCI.value,
        help="extended attributes to keep: oci, security.capability alone, which gives the same "
        "image id as cfsctl (default); all, whatever the layers carry",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Pull; prints the image's id and name."""
    with open_repository(args) as repo:
        pulled = pull(
            repo,
            args.source,
            args.name,
            xattrs=XattrMode(args.xattrs),
            progress=progress_for(sys.stderr),
        )
    if args.json:
        result = {
            "image": pulled.image_id,
            "manifest": pulled.manifest_digest,
            "config": pulled.config_digest,
            "name": pulled.name,
            "layers": pulled.layers,
            "new_layers": pulled.new_layers,
        }
        print(json.dumps(result, indent=2))
    else:
        print(f"{pulled.image_id} {pulled.name}")
    return 0
