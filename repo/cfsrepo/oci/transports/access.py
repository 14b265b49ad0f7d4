"""How registries are reached: what the caller chose, apart from what is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def ignore(text: str) -> object:
    """Say nothing."""
    return None


@dataclass(frozen=True, slots=True)
class Access:
    """Choices for all requests of one operation."""

    tls_verify: bool = True
    """False: certificates are not checked, and plain HTTP is tried where TLS is not spoken."""
    authfile: str | None = None
    """The file with credentials, in place of the usual ones (containers-auth.json(5))."""
    cert_dir: str | None = None
    """A directory with certificates, in place of certs.d (containers-certs.d(5))."""
    downloads: str | None = None
    """A directory for what was received of blobs so far; None: nothing is kept."""
    say: Callable[[str], object] = ignore
    """Told what may interest who asked for more words: retries, mirrors, what goes on again."""
