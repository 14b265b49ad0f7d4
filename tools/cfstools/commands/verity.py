"""`cfs verity status|enable`: how far the kernel protects the repository, and making it so."""

from __future__ import annotations

from cfsrepo.errors import EXIT_FOUND, EXIT_OK
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.store.kernelverity import unsupported
from cfsrepo.upkeep import veritymigration
from cfsrepo.upkeep.veritymigration import Protection
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json
from cfstools.render.progress import progress_for


def run(args: Arguments) -> int:
    with open_repository(args, check_policy=False) as repository:
        if args.action == "enable":
            found = veritymigration.enable(repository, progress=progress_for(args))
        else:
            found = veritymigration.status(repository)
        hint = None if found.supported else unsupported(repository.path).hint
    if args.json:
        print_json(_record(found))
    else:
        print(f"policy:      {found.policy}")
        print(f"supported:   {'yes' if found.supported else f'no ({hint})'}")
        print(f"meta.json:   {'protected' if found.meta else 'not protected'}")
        print(f"objects:     {found.protected} protected, {found.unprotected} not")
        for path in found.damaged:
            print(f"{path}: damaged")
    met = not found.damaged
    if found.policy is VerityPolicy.REQUIRE:
        met = met and found.meta and not found.unprotected
    return EXIT_OK if met else EXIT_FOUND


def _record(found: Protection) -> dict[str, object]:
    return {
        "policy": str(found.policy),
        "supported": found.supported,
        "meta_protected": found.meta,
        "protected": found.protected,
        "unprotected": found.unprotected,
        "damaged": found.damaged,
    }
