"""Fuzz targets for small texts: JSON documents, records, pins, the mount table."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from cfsrepo.errors import InputError, RepositoryError, UsageError
from cfsrepo.formats import metajson, metarecord
from cfsrepo.formats.fsverity import VerityPolicy
from cfsrepo.oci import documents
from cfsrepo.oci.documents import Descriptor
from cfsrepo.oci.transports.authorization import parse_challenges
from cfsrepo.oci.transports.http import retry_after
from cfsrepo.oci.transports.reference import parse_reference, parse_registry_reference
from cfsrepo.store import pins
from cfsrepo.store.pins import PinKind
from cfsrepo.store.repository import Repository
from cfsrepo.system import mounttable
from cfsrepo.upkeep import inuse

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def check_oci(data: bytes) -> None:
    """An index, a manifest, a configuration."""
    for parse in (parse_index, parse_manifest, parse_config):
        try:
            parse(data)
        except InputError as error:
            check_message(error)


def check_message(error: Exception, quoted: int = 0) -> None:
    """An error is one printable line; it may quote so many bytes of the input."""
    assert str(error).isprintable()
    assert len(str(error)) < 1000 + 4 * quoted


def parse_index(data: bytes) -> None:
    for descriptor in documents.parse_index(data, "index"):
        check_descriptor(descriptor)


def parse_manifest(data: bytes) -> None:
    manifest = documents.parse_manifest(data, "manifest")
    for descriptor in (manifest.config, *manifest.layers):
        check_descriptor(descriptor)


def parse_config(data: bytes) -> None:
    config = documents.parse_config(data, "config")
    assert all(map(DIGEST.fullmatch, config.diff_ids))
    str(config.platform)


def check_descriptor(descriptor: Descriptor) -> None:
    """A descriptor is what the rest of the program takes it for."""
    assert DIGEST.fullmatch(descriptor.digest)
    assert 0 <= descriptor.size < 1 << 63
    assert descriptor.ref_name is None or isinstance(descriptor.ref_name, str)
    str(descriptor.platform)


def check_metajson(data: bytes) -> None:
    """A repository's `meta.json`: what was understood is written, and read again."""
    try:
        meta = metajson.parse(data, "meta.json")
    except RepositoryError:
        return
    again = metajson.parse(meta.to_json(), "meta.json")
    assert again.to_json() == meta.to_json()


def check_record(data: bytes) -> None:
    """A `user.cfs.meta` record: canonical, so that it is written as it was read."""
    try:
        meta = metarecord.decode(data)
    except InputError:
        return
    assert metarecord.encode(meta) == data
    for mode in (0o100644, 0o040755, 0o120777):
        try:
            metarecord.check_type(meta, mode)
        except InputError:
            continue
    assert metarecord.disk_mode(meta.mode) & ~0o755 == 0


@lru_cache(maxsize=1)
def repository() -> Repository:
    """An empty repository, which goes away with this process."""
    directory = tempfile.mkdtemp(prefix="cfs-fuzz-")
    atexit.register(shutil.rmtree, directory)
    return Repository.init(f"{directory}/repository", verity=VerityPolicy.OFF)


def check_pin(data: bytes) -> None:
    """A pin's file: whatever it holds, it is a pin that can be told and removed."""
    repo = repository()
    path = Path(repo.private_directory("pins")) / "0123456789ab-0123456789abcdef"
    path.write_bytes(data)
    (pin,) = pins.read(repo)
    pin.describe()
    if pin.kind is PinKind.DAMAGED:
        assert pin.image_id == "0123456789ab", "what its name says is kept"
    inuse.find(repo)
    pins.remove(repo, pin)
    assert pins.read(repo) == []


def check_registry(data: bytes) -> None:
    """What users and registries write in a line: references, challenges, waiting times."""
    text = data.decode("latin-1")  # as HTTP has it
    try:
        reference = parse_registry_reference(text, bare=False)
    except UsageError as error:
        check_message(error, len(text))
    else:
        assert str(parse_reference(str(reference))) == str(reference)
    for challenge in parse_challenges(text.split("\n")):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(value.isprintable() for value in challenge.parameters.values())
    wait = retry_after(text, 1_700_000_000.0)
    assert wait is None or wait >= 0


def check_mountinfo(data: bytes) -> None:
    """The mount table: malformed lines are left out, and nothing else."""
    mounts = mounttable.parse(data)
    assert len(mounts) <= data.count(b"\n") + 1
    for mount in mounts:
        mount.values(b"lowerdir")
    line = b"22 1 0:21 / /mnt\\040x rw,nosuid shared:7 - tmpfs none rw,size=1k"
    more = mounttable.parse(data + b"\n" + line + b"\n")
    assert more[: len(mounts)] == mounts
    (last,) = more[len(mounts) :]
    assert (last.device, last.mount_point, last.fstype) == ((0, 21), b"/mnt x", "tmpfs")
