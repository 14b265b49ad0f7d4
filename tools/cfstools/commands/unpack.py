"""`cfs unpack`: layers as an ordinary directory that its user can edit, without a repository."""

from __future__ import annotations

import argparse
import sys

from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.unpack import unpack
from cfstools.progressbar import progress_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cfs unpack`."""
    parser.add_argument(
        "layers", metavar="LAYER.tar", nargs="+", help="a layer, packed by gzip, zstd or not"
    )
    parser.add_argument("directory", metavar="DIR", help="an empty or new directory")
    parser.add_argument(
        "--xattrs",
        choices=[mode.value for mode in XattrMode],
        default=XattrMode.OCI.value,
        help="extended attributes to keep, as with `cfs pull` (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Unpack, the first layer lowest."""
    unpack(
        args.layers,
        args.directory,
        xattrs=XattrMode(args.xattrs),
        progress=progress_for(sys.stderr),
    )
    return 0
