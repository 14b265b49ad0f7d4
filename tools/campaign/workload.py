"""What the campaigns work with: small OCI images, repositories made of them, and what must hold."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from cfsrepo.oci.importer import pull
from cfsrepo.store.repository import Repository
from cfsrepo.system import linux
from cfsrepo.upkeep import fsck
from cfsrepo.upkeep.gc import collect
from cfsrepo.upkeep.reachability import Marker
from cfstools import cli

_LEFTOVERS = (".tmp-", ".symlink-")
_LOCK_WAIT = 30.0  # seconds until a killed command's workers must be gone


class CampaignError(Exception):
    """Something that must hold does not."""


# --- images --------------------------------------------------------------------------------------


def build_layout(directory: str, seed: int, files: int) -> list[str]:
    """An OCI layout of three images that share a layer; returns `oci:DIR:REF` of each."""
    source = random.Random(seed)
    os.makedirs(f"{directory}/blobs/sha256")
    base = _layer(source, "base", files)
    manifests = []
    for number in range(3):
        own = _layer(source, f"own{number}", files // 2, big=number == 1)
        manifests.append(_image(directory, f"image{number}", [base, own]))
    index = {"schemaVersion": 2, "manifests": manifests}
    _write(f"{directory}/index.json", json.dumps(index).encode())
    _write(f"{directory}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return [f"oci:{directory}:image{number}" for number in range(3)]


def _layer(source: random.Random, name: str, files: int, *, big: bool = False) -> bytes:
    """A tar with small, medium and, with `big`, one large file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("usr", f"usr/{name}"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for number in range(files):
            size = source.choice((0, 20, 64, 65, 500, 3000, 4096, 9000, 60_000))
            _add(tar, f"usr/{name}/{number}", source.randbytes(size))
        if big:
            _add(tar, f"usr/{name}/big", source.randbytes(6 << 20))
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _image(directory: str, ref: str, layers: Sequence[bytes]) -> dict[str, object]:
    """Write the blobs of an image; returns the descriptor of its manifest."""
    kind = "application/vnd.oci.image."
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": _blob(directory, json.dumps(config).encode(), f"{kind}config.v1+json"),
        "layers": [_blob(directory, layer, f"{kind}layer.v1.tar") for layer in layers],
    }
    descriptor = _blob(directory, json.dumps(manifest).encode(), f"{kind}manifest.v1+json")
    return {**descriptor, "annotations": {"org.opencontainers.image.ref.name": ref}}


def _blob(directory: str, data: bytes, media_type: str) -> dict[str, object]:
    digest = _digest(data)
    _write(f"{directory}/blobs/{digest.replace(':', '/')}", data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


# --- running a command ---------------------------------------------------------------------------


def start(arguments: Sequence[str], log: str) -> int:
    """Run `cfs ARGUMENTS` in a child without the start of an interpreter; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        code = cli.main(list(arguments))
    finally:
        os._exit(code)


def run(arguments: Sequence[str], log: str) -> int:
    """Run `cfs ARGUMENTS` to its end; returns the exit code."""
    _, status = os.waitpid(start(arguments, log), 0)
    return os.waitstatus_to_exitcode(status)


def run_and_kill(arguments: Sequence[str], log: str, delay: float) -> bool:
    """Run `cfs ARGUMENTS` and kill it after `delay` seconds; whether that was before its end."""
    pid = start(arguments, log)
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(min(0.0005, max(0.0, deadline - time.monotonic())))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def said(log: str) -> str:
    """What the command said last."""
    with open(log, encoding="utf-8", errors="replace") as file:
        return file.read().strip()[-500:]


# --- operations ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Scene:
    """The repositories of a round, below `directory`, and what was committed before it."""

    directory: str
    sources: list[str]
    damaged: set[bytes] = field(default_factory=set)
    """Objects that were damaged on purpose."""

    @property
    def repository(self) -> str:
        """The repository that is worked on."""
        return f"{self.directory}/repository"

    @property
    def copy(self) -> str:
        """Where a clone goes."""
        return f"{self.directory}/copy"

    @property
    def log(self) -> str:
        """What the command says."""
        return f"{self.directory}.log"


class Operation(ABC):
    """A command that is interrupted. `prepare` makes the state before it."""

    name = ""
    needs_verity = False

    def prepare(self, scene: Scene, source: random.Random) -> None:  # noqa: B027 - not every command needs more
        """Change the copied template, which has images 0 and 1, into what the command finds."""

    @abstractmethod
    def arguments(self, scene: Scene) -> list[str]:
        """The command."""

    def tags(self) -> set[str]:
        """The names in the repository after the command."""
        return {"image0", "image1"}


class Pull(Operation):
    """Pull an image that shares a layer with those that are there."""

    name = "pull"

    def arguments(self, scene: Scene) -> list[str]:
        return ["--repo", scene.repository, "pull", scene.sources[2], "image2"]

    def tags(self) -> set[str]:
        return {"image0", "image1", "image2"}


class Tag(Operation):
    """Give an image another name, and so replace a name."""

    name = "tag"

    def arguments(self, scene: Scene) -> list[str]:
        return ["--repo", scene.repository, "tag", "image0", "image1"]


class Gc(Operation):
    """Collect what an untagged image leaves, and other garbage."""

    name = "gc"

    def prepare(self, scene: Scene, source: random.Random) -> None:
        with Repository.open(scene.repository) as repository:
            repository.untag("image1")
            for _ in range(50):
                repository.objects.put(source.randbytes(3000))

    def arguments(self, scene: Scene) -> list[str]:
        return ["--repo", scene.repository, "gc"]

    def tags(self) -> set[str]:
        return {"image0"}


class Clone(Operation):
    """Clone to a repository that does not exist."""

    name = "clone"

    def arguments(self, scene: Scene) -> list[str]:
        return ["clone", "--share=copy", scene.repository, scene.copy]


class Repair(Operation):
    """Make damaged objects good from the layout."""

    name = "fsck --repair"

    def prepare(self, scene: Scene, source: random.Random) -> None:
        with Repository.open(scene.repository) as repository:
            digests = sorted(Marker(repository).mark().live)
            for digest in source.sample(digests, 8):
                name = digest.hex()
                path = f"{repository.objects.path}/{name[:2]}/{name[2:]}"
                size = os.path.getsize(path)
                match source.choice(("flip", "remove", "cut")):
                    case "flip" if size:
                        with open(path, "r+b") as file:
                            file.seek(source.randrange(size))
                            byte = file.read(1)
                            file.seek(-1, os.SEEK_CUR)
                            file.write(bytes([byte[0] ^ 1 << source.randrange(8)]))
                    case "cut" if size:
                        os.truncate(path, size // 2)
                    case _:
                        os.unlink(path)
            scene.damaged = fsck.check(repository, workers=1).bad_objects()

    def arguments(self, scene: Scene) -> list[str]:
        layout = scene.sources[0].rpartition(":")[0]
        return ["--repo", scene.repository, "fsck", "--repair", "--from", layout]


class VerityEnable(Operation):
    """Migrate to fs-verity."""

    name = "verity enable"
    needs_verity = True

    def arguments(self, scene: Scene) -> list[str]:
        return ["--repo", scene.repository, "verity", "enable"]


OPERATIONS: tuple[Operation, ...] = (Pull(), Tag(), Gc(), Clone(), Repair(), VerityEnable())


def make_template(directory: str, sources: Sequence[str]) -> None:
    """The repository that each round begins with."""
    with Repository.init(directory) as repository:
        for number in range(2):
            pull(repository, sources[number], f"image{number}")


def set_scene(
    template: str, directory: str, sources: list[str], operation: Operation, source: random.Random
) -> Scene:
    """A fresh copy of the template, prepared for the operation."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    scene = Scene(directory, sources)
    shutil.copytree(template, scene.repository, symlinks=True)
    operation.prepare(scene, source)
    return scene


# --- what must hold ------------------------------------------------------------------------------


def check_interrupted(scene: Scene, operation: Operation, before: dict[str, str]) -> None:
    """After a command that did not get to its end: nothing is wrong, nothing is lost."""
    _wait_for_workers(scene.repository)
    _check_sound(scene.repository, scene.damaged)
    with Repository.open(scene.repository, check_policy=False) as repository:
        tags = repository.tags()
    lost = before.keys() - tags.keys()
    if lost:
        raise CampaignError(f"names were lost: {', '.join(sorted(lost))}")
    if isinstance(operation, Clone) and os.path.exists(f"{scene.copy}/meta.json"):
        _wait_for_workers(scene.copy)
        _check_sound(scene.copy, set())


def check_done(scene: Scene, operation: Operation) -> int:
    """After the command got to its end: all is there, and a collection leaves nothing over.

    Returns the number of objects that the collection freed.
    """
    freed = 0
    paths = [scene.repository] + ([scene.copy] if isinstance(operation, Clone) else [])
    for path in paths:
        _check_sound(path, set())
        with Repository.open(path) as repository:
            if repository.tags().keys() != operation.tags():
                raise CampaignError(f"{path}: has the names {sorted(repository.tags())}")
            freed += collect(repository).objects
            rest = collect(repository, dry_run=True)
            live = Marker(repository).mark().live
        if rest.objects or rest.streams or rest.images or rest.leftovers or rest.strays:
            raise CampaignError(f"{path}: a collection left over: {rest}")
        count = sum(len(files) for _, _, files in os.walk(f"{path}/objects"))
        if count != len(live):
            raise CampaignError(f"{path}: {count} files for {len(live)} objects")
        for _, directories, files in os.walk(path):
            for name in (*directories, *files):
                if name.startswith(_LEFTOVERS) or name.endswith(".new"):
                    raise CampaignError(f"{path}: {name} was left over")
        _check_sound(path, set())
    return freed


def names(path: str) -> dict[str, str]:
    """The tags of a repository."""
    with Repository.open(path) as repository:
        return repository.tags()


def _check_sound(path: str, damaged: set[bytes]) -> None:
    """`fsck` finds nothing but what was damaged on purpose."""
    with Repository.open(path, check_policy=False) as repository:
        checked = fsck.check(repository, workers=1)
    for problem in checked.problems:
        if problem.digest is None or problem.digest not in damaged:
            raise CampaignError(f"{path}: {problem.path}: {problem.kind} {problem.detail}")


def _wait_for_workers(path: str) -> None:
    """A killed command's processes end with it, and so give its lock back."""
    deadline = time.monotonic() + _LOCK_WAIT
    with linux.opened(path, os.O_RDONLY) as fd:
        while not linux.lock_exclusive(fd, wait=False):
            if time.monotonic() > deadline:
                raise CampaignError(f"{path}: processes of a killed command hold its lock")
            time.sleep(0.002)
