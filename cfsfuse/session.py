"""Serving an image at a mount point: from the repository to the end of the mount.

In this order: the image is checked and pinned under the repository's lock, then it is mounted, then
the server's record is published, then the caller hears that the mount answers. At the end all of it
is taken back, as it is when the start fails or is interrupted. A server that is killed, or fails
later, leaves a dead mount and a pin that nobody counts any more.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from cfsfuse import records
from cfsfuse.connection import connect
from cfsfuse.engines.direct import Server
from cfsfuse.loop import Loop
from cfsfuse.operations import Operations
from cfsfuse.options import Engine, MountOptions
from cfsfuse.records import Record
from cfsfuse.signals import endings_blocked
from cfsfuse.unmounting import unmount
from cfsrepo.errors import MountError, RepositoryError, SystemFailure
from cfsrepo.formats.erofs.reader import ErofsImage
from cfsrepo.images.location import ImageLocation, map_file
from cfsrepo.images.verified import ObjectDirectory, Verify
from cfsrepo.images.view import ImageView
from cfsrepo.store import pins
from cfsrepo.store.repository import Repository
from cfsrepo.system.processes import boot_id, process_start_time

log = logging.getLogger(__name__)


def serve(
    source: ImageLocation,
    point: bytes,
    options: MountOptions,
    *,
    log_path: str | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Mount the image at `point` and serve it until it is unmounted or SIGTERM or SIGINT comes.

    `ready` is called when the mount answers. Raises `CfsError`, before that and seldom after it.
    """
    with ExitStack() as stack:
        image = ErofsImage(_image_data(source, point, options, stack), source.name)
        objects = ObjectDirectory(
            source.object_dir, verify=options.verify, merkle=source.merkle_dir
        )
        stack.callback(objects.close)
        view = ImageView(image, objects, subdir=options.subdir, owners=options.owners)
        trusted = os.geteuid() == 0 or options.shared
        operations = Operations(view, trusted=trusted)
        numbers: Callable[[], dict[str, Any]] = operations.numbers
        started = False
        published = ExitStack()
        stack.enter_context(published)

        def answers() -> None:
            nonlocal started
            record = _record(source, point, options, log_path)
            try:
                published.enter_context(
                    records.published(
                        record, lambda: {**numbers(), "verified_bytes": objects.verified}
                    )
                )
            except (OSError, SystemFailure) as error:
                log.warning("no record for 'cfs mounts': %s", error)
            log.info("mounted at %s", record.mount_point)
            ready()
            started = True

        # A signal between mounting and serving waits until there is who unmounts.
        if options.engine is not Engine.DIRECT:
            stack.enter_context(endings_blocked())
        fd = connect(point, source.name, options.kernel)
        try:
            if options.engine is Engine.DIRECT:
                with Server(view, fd, trusted=trusted) as server:
                    numbers = server.numbers
                    if not server.run(answers):
                        _take_back(point)
            else:
                with Loop(operations, fd) as loop:
                    loop.run(answers, lambda: _take_back(point))
        except BaseException:
            if not started:
                _take_back(point)
            raise
        log.info("unmounted from %s", os.fsdecode(point))


def _take_back(point: bytes) -> None:
    try:
        unmount(point, lazy=True)
    except MountError as error:
        log.error("%s", error)


def _image_data(
    source: ImageLocation, point: bytes, options: MountOptions, stack: ExitStack
) -> mmap.mmap:
    """The image, mapped; checked and pinned where it belongs to a repository."""
    if source.repository is None or source.image_id is None:
        return stack.enter_context(map_file(source.image_file))
    repository = stack.enter_context(Repository.open(source.repository))
    data = stack.enter_context(
        repository.open_image(source.image_id, verify=options.verify is not Verify.OFF)
    )
    try:
        pin = pins.pin_process(repository, source.image_id, os.fsdecode(point))
        stack.callback(pins.remove, repository, pin)
    except (RepositoryError, SystemFailure, OSError) as error:
        log.warning("the image is not pinned, a collection may remove it: %s", error)
    repository.release_lock()
    return data


def _record(
    source: ImageLocation, point: bytes, options: MountOptions, log_path: str | None
) -> Record:
    pid = os.getpid()
    return Record(
        pid=pid,
        start_time=process_start_time(pid) or 0,
        boot_id=boot_id(),
        mount_point=os.fsdecode(point),
        name=source.name,
        image_id=source.image_id,
        repository=source.repository,
        engine=str(options.engine),
        verify=str(options.verify),
        options=list(options.kernel),
        log=log_path,
    )
