"""`python -m cfstools` is `cfs`."""

from cfstools.cli import entry

entry()
