"""The layers of an image imported side by side, each in a process, largest first.

Processes, since walking an archive and hashing small files is Python's own work. They are forked,
so each has the repository open as its parent has, and its lock. A single layer is imported in the
calling process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from cfsrepo.errors import RepositoryError
from cfsrepo.formats.splitstream import SplitStream
from cfsrepo.oci.documents import Descriptor
from cfsrepo.oci.layerimport import Amounts, StoredLayer, import_layer
from cfsrepo.oci.limits import Budget, Limits
from cfsrepo.oci.transports.blob import BlobSource
from cfsrepo.progress import Progress
from cfsrepo.store.objects import ObjectStore
from cfsrepo.system import pool

_SHORT = len("sha256:") + 12
_WORKERS_MAX = 4  # each takes some 25 MiB; more would wait for the disk anyway


@dataclass(frozen=True, slots=True)
class LayerJob:
    """A layer to import: the digest of its archive, and the blob it is packed in."""

    diff_id: str
    descriptor: Descriptor

    @property
    def task(self) -> str:
        """What progress calls it."""
        return f"layer {self.descriptor.digest[:_SHORT]}"


class _Watcher(pool.Watcher[LayerJob, Amounts]):
    """Tells progress, and counts what all layers together unpack to."""

    def __init__(self, progress: Progress, limits: Limits) -> None:
        self._progress = progress
        self._budget = Budget(limits)

    def started(self, item: LayerJob) -> None:
        self._progress.start(item.task, item.descriptor.size)

    def told(self, item: LayerJob, message: Amounts) -> None:
        read, unpacked = message
        self._progress.advance(item.task, read)
        self._budget.add_bytes(unpacked, item.task)

    def name(self, item: LayerJob) -> str:
        return f"{item.task}: the process that imported it"


def import_layers(
    jobs: list[LayerJob],
    source: BlobSource,
    objects: ObjectStore,
    progress: Progress,
    limits: Limits,
) -> Generator[tuple[str, StoredLayer]]:
    """Import all layers; each comes, with its diff id, as soon as it is complete.

    The first error ends them all, as does closing the iterator.
    """
    # The largest first, or one could be left over for the end.
    ordered = sorted(jobs, key=lambda job: -job.descriptor.size)
    # One more than there are processors: a worker waits for the disk now and then.
    workers = min(pool.workers_available() + 1, _WORKERS_MAX)

    def work(job: LayerJob, tell: Callable[[Amounts], object]) -> StoredLayer:
        with source.open_blob(job.descriptor) as blob:
            known = blob.stored(job.diff_id)
            if known is not None and _is_whole(known, objects):
                # Another pull stored it while this one waited, or before it was killed.
                return StoredLayer(known, 0, 0)
            stored = import_layer(blob, job.diff_id, objects, limits, tell)
            blob.remember(job.diff_id, stored.digest)
            return stored

    for job, stored in pool.run_watched(ordered, work, _Watcher(progress, limits), workers):
        progress.finish(job.task)
        yield job.diff_id, stored


def _is_whole(stream: bytes, objects: ObjectStore) -> bool:
    """Is the layer's stream there, with all that it needs?"""
    if not objects.has(stream):
        return False
    try:
        needed = SplitStream.parse(objects.read(stream)).object_refs
    except RepositoryError:
        return False
    return all(map(objects.has, needed))
