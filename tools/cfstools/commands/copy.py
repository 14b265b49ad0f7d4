"""`cfs copy`: an image from one place to another, without a repository."""

from __future__ import annotations

from cfsrepo.oci.copy import copy
from cfsrepo.oci.transports.platforms import parse_platform
from cfsrepo.oci.transports.reference import parse_reference
from cfstools.context import registry_access
from cfstools.options import Arguments
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    """Copy; prints the digest of what was copied."""
    progress = progress_for(args)
    done = copy(
        parse_reference(args.source),
        parse_reference(args.destination),
        platform=parse_platform(args.platform) if args.platform else None,
        every_platform=args.all_platforms,
        access=registry_access(args, progress),
        progress=progress,
    )
    print(done.manifest_digest)
    return 0
