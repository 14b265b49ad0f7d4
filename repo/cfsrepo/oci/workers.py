"""Layers imported in parallel: a process a layer, about as many at a time as there are processors.

Processes, since walking an archive and hashing small files is Python's own work. They are forked,
so each has the repository open as its parent has, and its lock; they end with their parent. One
layer alone is imported in the calling process.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import cast

from cfsrepo.errors import CfsError, SystemFailure
from cfsrepo.oci.documents import Descriptor
from cfsrepo.oci.layerimport import StoredLayer, import_layer
from cfsrepo.oci.transports.imagelayout import ImageSource
from cfsrepo.progress import Progress
from cfsrepo.store.objects import ObjectStore
from cfsrepo.system import linux

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


def import_layers(
    jobs: list[LayerJob], source: ImageSource, objects: ObjectStore, progress: Progress
) -> Generator[tuple[str, StoredLayer]]:
    """Import all layers; each comes, with its diff id, as soon as it is complete.

    The first error ends them all, as does closing the iterator.
    """
    # The largest first, or one could be left over for the end.
    ordered = sorted(jobs, key=lambda job: -job.descriptor.size)
    # One more than there are processors: a worker waits for the disk now and then.
    workers = min(len(ordered), len(os.sched_getaffinity(0)) + 1, _WORKERS_MAX)
    if len(ordered) > 1:
        yield from _import_parallel(ordered, source, objects, progress, workers)
        return
    for job in ordered:
        progress.start(job.task, job.descriptor.size)
        with source.open_blob(job.descriptor) as blob:
            report = functools.partial(progress.advance, job.task)
            stored = import_layer(blob, job.diff_id, objects, report)
        progress.finish(job.task)
        yield job.diff_id, stored


def _import_parallel(
    jobs: list[LayerJob],
    source: ImageSource,
    objects: ObjectStore,
    progress: Progress,
    workers: int,
) -> Generator[tuple[str, StoredLayer]]:
    context = multiprocessing.get_context("fork")
    waiting = iter(jobs)
    running: dict[Connection, tuple[LayerJob, ForkProcess]] = {}

    def start_next() -> None:
        job = next(waiting, None)
        if job is None:
            return
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(job, source, objects, sender, receiver), daemon=True
        )
        process.start()
        sender.close()
        running[receiver] = job, process
        progress.start(job.task, job.descriptor.size)

    with _ended(running):
        for _ in range(workers):
            start_next()
        while running:
            for ready in wait(list(running)):
                connection = cast(Connection, ready)
                job, process = running[connection]
                try:
                    message = connection.recv()
                except EOFError:
                    process.join()
                    raise _died(job, process) from None
                if isinstance(message, int):
                    progress.advance(job.task, message)
                    continue
                if isinstance(message, BaseException):
                    raise message
                process.join()
                del running[connection]
                connection.close()
                progress.finish(job.task)
                start_next()
                yield job.diff_id, message


def _work(
    job: LayerJob,
    source: ImageSource,
    objects: ObjectStore,
    sender: Connection,
    receiver: Connection,
) -> None:
    """What the process of a layer does: progress as numbers, then the result or an error."""
    linux.die_with_parent()
    receiver.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    try:
        with source.open_blob(job.descriptor) as blob:
            message: StoredLayer | BaseException = import_layer(
                blob, job.diff_id, objects, sender.send
            )
    except (CfsError, OSError) as error:
        message = error
    sender.send(message)


def _died(job: LayerJob, process: ForkProcess) -> SystemFailure:
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return SystemFailure(
        f"{job.task}: the process that imported it {how}",
        hint="out of memory? the kernel's log says" if code == -signal.SIGKILL else None,
    )


@contextlib.contextmanager
def _ended(running: dict[Connection, tuple[LayerJob, ForkProcess]]) -> Iterator[None]:
    """No process outlives this."""
    try:
        yield
    finally:
        for _, process in running.values():
            process.terminate()
        for connection, (_, process) in running.items():
            process.join()
            connection.close()
