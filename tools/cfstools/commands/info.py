"""`cfs info`: what the repository is, and what state it is in."""

from __future__ import annotations

import os

from cfsrepo.formats import metajson
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.store import kernelverity
from cfsrepo.store.kernelverity import unsupported
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux, mounttable
from cfsrepo.upkeep import inuse, veritymigration
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json


def run(args: Arguments) -> int:
    with open_repository(args, check_policy=False) as repository:
        record = _record(repository)
    if args.json:
        print_json(record)
        return 0
    for key, value in record.items():
        print(f"{key.replace('_', ' ').capitalize() + ':':<18}{_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "-"


def _record(repository: Repository) -> dict[str, object]:
    mount = mounttable.mount_of(repository.path)
    features = repository.meta.features
    return {
        "repository": repository.path,
        "file_system": "-" if mount is None else mount.fstype,
        "version": repository.meta.version,
        "algorithm": str(repository.algorithm),
        "image_versions": [repository.meta.erofs_default, *repository.meta.erofs_extra],
        "features": [
            *features.compatible,
            *features.read_only_compatible,
            *features.incompatible,
        ],
        "verity_policy": str(repository.policy),
        "verity_in_force": _verity(repository),
        "writable": repository.writable,
        "images": len(repository.images()),
        "tags": len(repository.tags()),
        "streams": len(repository.streams()),
        "objects": sum(
            len(_listdir(repository, prefix)) for prefix in repository.objects.prefixes()
        ),
        "pins": len(inuse.find(repository).live_pins),
    }


def _verity(repository: Repository) -> str:
    """What the policy came to on this file system."""
    with linux.opened(metajson.FILE_NAME, os.O_RDONLY, dir_fd=repository.fd) as fd:
        protected = kernelverity.measure(fd, repository.algorithm) is not None
    if protected:
        return "yes, required of every object"
    if repository.policy is VerityPolicy.OFF:
        return "no, switched off"
    if not repository.writable:
        return "no" if repository.policy is VerityPolicy.REQUIRE else "not required"
    if not veritymigration.is_supported(repository):
        error = unsupported(repository.path)
        return f"no: {str(error).partition(': ')[2]} ({error.hint})"
    if repository.policy is VerityPolicy.REQUIRE:
        return "no: 'cfs verity enable' gives it back"
    return "for new objects; 'cfs verity enable' protects all and requires it"


def _listdir(repository: Repository, prefix: str) -> list[str]:
    return os.listdir(f"{repository.objects.path}/{prefix}")
