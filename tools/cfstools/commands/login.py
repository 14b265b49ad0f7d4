"""`cfs login`: credentials for a registry, which is asked whether it takes them."""

from __future__ import annotations

import getpass
import sys

from cfsrepo.errors import UsageError
from cfsrepo.oci.transports import credentials
from cfsrepo.oci.transports.credentials import Credentials
from cfsrepo.oci.transports.registrysource import check_login
from cfstools.context import registry_access
from cfstools.options import Arguments
from cfstools.render.progress import progress_for

_PASSWORD_MAX = 64 << 10


def run(args: Arguments) -> int:
    """Log in; says where the credentials are kept."""
    user = args.username
    if user is None:
        if args.password_stdin or not sys.stdin.isatty():
            raise UsageError("no user", hint="--username NAME names one")
        user = input("User: ")
    if args.password_stdin:
        password = sys.stdin.read(_PASSWORD_MAX).removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    else:
        raise UsageError("no terminal to ask for the password", hint="--password-stdin reads it")
    found = Credentials(user, password)
    check_login(args.host, found, registry_access(args, progress_for(args)))
    place = credentials.store(args.host, found, args.authfile)
    if not args.quiet:
        print(f"logged in to {args.host}; the credentials are in {place}")
    return 0
