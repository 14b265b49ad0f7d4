"""`cfs unpack`: layers as an ordinary directory that its user can edit, without a repository."""

from __future__ import annotations

from cfsrepo.oci.merge import XattrMode
from cfsrepo.oci.unpack import unpack
from cfstools.layerlimits import limits_from
from cfstools.options import Arguments
from cfstools.render.progress import progress_for
from cfstools.termination import terminated_as_interrupted


def run(args: Arguments) -> int:
    """Unpack, the first layer lowest."""
    with terminated_as_interrupted():
        unpack(
            args.layers,
            args.directory,
            xattrs=XattrMode(args.xattrs),
            limits=limits_from(args),
            progress=progress_for(args),
        )
    return 0
