"""`cfs push`: an image of the repository to a registry, a layout or an archive."""

from __future__ import annotations

from cfsrepo.oci.copy import push
from cfsrepo.oci.transports.reference import parse_reference
from cfstools.context import open_repository, registry_access
from cfstools.options import Arguments
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    """Push; prints the digest of the manifest."""
    progress = progress_for(args)
    with open_repository(args) as repo:
        done = push(
            repo,
            args.image,
            parse_reference(args.destination),
            recompress=args.recompress,
            access=registry_access(args, progress),
            progress=progress,
        )
    print(done.manifest_digest)
    return 0
