"""The options `--max-*` of commands that unpack layers."""

from __future__ import annotations

import re

from cfsrepo.errors import UsageError
from cfsrepo.oci.limits import DEFAULT_LIMITS, Limits
from cfstools.options import Arguments

_AMOUNT = re.compile(r"([0-9]{1,18})(?:([KMGT])(?:iB)?)?\Z")
_FACTORS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def limits_from(args: Arguments) -> Limits:
    """The limits that the command line asks for; UsageError for a value that is no amount."""
    return Limits(
        size=_amount("--max-size", args.max_size, DEFAULT_LIMITS.size),
        metadata=_amount("--max-metadata", args.max_metadata, DEFAULT_LIMITS.metadata),
        entries=_amount("--max-entries", args.max_entries, DEFAULT_LIMITS.entries),
    )


def _amount(option: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    match = _AMOUNT.match(text)
    if match is None:
        raise UsageError(f"{option} {text}: no amount", hint="an amount is as 500M, 20G or 70000")
    return int(match[1]) * _FACTORS[match[2]]
