"""`cfs logout`: forget the credentials of a registry."""

from __future__ import annotations

from cfsrepo.oci.transports import credentials
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    """Log out; says where the credentials were."""
    place = credentials.remove(args.host, args.authfile)
    if not args.quiet:
        print(f"removed the credentials for {args.host} from {place}")
    return 0
