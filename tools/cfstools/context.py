"""What a command finds around it: the repository that the user means."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.progress import Progress
from cfsrepo.store.repository import Repository
from cfstools.options import Arguments

if TYPE_CHECKING:
    from cfsrepo.oci.transports.access import Access


def default_repository() -> str:
    """The repository's path without `--repo`: $CFS_REPO, else below the user's data directory."""
    if path := os.environ.get("CFS_REPO"):
        return path
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "cfsfuse", "repository")


def repository_path(args: Arguments) -> str:
    """The path of the repository that `args` name."""
    return args.repo or default_repository()


def open_repository(args: Arguments, *, check_policy: bool = True) -> Repository:
    """Open the repository that `args` name; the caller closes it (a context manager)."""
    return Repository.open(repository_path(args), check_policy=check_policy)


def open_or_make_repository(args: Arguments, progress: Progress) -> Repository:
    """As `open_repository`; makes the default repository where there is none, and says where.

    One that `--repo` or $CFS_REPO names is not made: the name may be mistyped.
    """
    path = repository_path(args)
    named = args.repo or os.environ.get("CFS_REPO")
    if named or os.path.lexists(path):
        return open_repository(args)
    made = Repository.init(path, algorithm=Algorithm.SHA256, verity=VerityPolicy.TRY)
    progress.message(f"made the repository {path}")
    return made


def registry_access(args: Arguments, progress: Progress) -> Access:
    """How the options of `args` want registries to be reached; with `-v` it says more."""
    from cfsrepo.oci.transports.access import Access

    access = Access(
        tls_verify=args.tls_verify == "true", authfile=args.authfile, cert_dir=args.cert_dir
    )
    return replace(access, say=progress.message) if args.verbose else access
