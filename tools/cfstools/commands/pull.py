"""`cfs pull`: an OCI image into the repository."""

from __future__ import annotations

from cfsrepo.oci.importer import pull
from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.transports.platforms import parse_platform
from cfstools.context import open_or_make_repository, registry_access
from cfstools.layerlimits import limits_from
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for
from cfstools.termination import terminated_as_interrupted


def run(args: Arguments) -> int:
    """Pull; prints the image's id and name."""
    progress = progress_for(args)
    with terminated_as_interrupted(), open_or_make_repository(args, progress) as repo:
        pulled = pull(
            repo,
            args.source,
            args.name,
            xattrs=XattrMode(args.xattrs),
            limits=limits_from(args),
            platform=parse_platform(args.platform) if args.platform else None,
            access=registry_access(args, progress),
            progress=progress,
        )
    if args.json:
        result = {
            "name": pulled.name,
            "image_id": pulled.image_id,
            "manifest_digest": pulled.manifest_digest,
            "config_digest": pulled.config_digest,
            "layers": pulled.layers,
            "new_layers": pulled.new_layers,
        }
        print_json(result)
    else:
        print(f"{pulled.image_id} {pulled.name}")
    return 0
