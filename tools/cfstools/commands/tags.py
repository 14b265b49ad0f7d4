"""`cfs tags`: the tags of a name in a registry."""

from __future__ import annotations

from cfsrepo.oci.transports.reference import parse_registry_reference
from cfsrepo.oci.transports.registrysource import list_tags
from cfstools.context import registry_access
from cfstools.options import Arguments
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    """Print a line for each tag."""
    reference = parse_registry_reference(args.name.removeprefix("docker://"))
    for tag in list_tags(reference, registry_access(args, progress_for(args))):
        print(tag)
    return 0
