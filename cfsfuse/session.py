"""Serving a view at a mount point, from mounting to unmounting."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyfuse3
import trio

from cfsfuse import mounts
from cfsfuse.operations import Operations
from cfsfuse.view import ImageView
from cfsrepo.errors import MountError, printable

log = logging.getLogger(__name__)

# Threads for reads that wait for the disk.
_READERS = 8


def serve(
    view: ImageView,
    point: bytes,
    *,
    source: str,
    options: Sequence[str] = (),
    enforce_permissions: bool = False,
    ready: Callable[[], None] | None = None,
) -> None:
    """Mount `view` at `point` and serve it until it is unmounted or SIGTERM or SIGINT comes.

    `ready` is called when the kernel has started the session: from then on the mount answers.
    `source` is what `mount` shows as the device; `options` are passed to the kernel. Raises
    `MountError` when it cannot be mounted.
    """
    wanted = {"ro", f"fsname={_option_value(source)}", f"subtype={mounts.SUBTYPE}", *options}
    if enforce_permissions:
        wanted.add("default_permissions")
    operations = Operations(view, ready or (lambda: None))
    _mount(operations, point, wanted)
    clean = False
    try:
        gc.collect()
        gc.freeze()  # what exists now lives as long as the server: never scan it again
        trio.run(_main)
        clean = True
    finally:
        # An error leaves the mount dead, not silently empty (see cfsfuse.mounts).
        pyfuse3.close(unmount=clean)
        operations.close()


async def _main() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_terminate_on_signal)
        trio.to_thread.current_default_thread_limiter().total_tokens = _READERS
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _terminate_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("ending on %s", signal.Signals(number).name)
            pyfuse3.terminate()
            return


def _mount(operations: Operations, point: bytes, options: set[str]) -> None:
    if os.geteuid() != 0:
        mounts.helper()
    with _stderr_captured() as captured:
        try:
            pyfuse3.init(operations, os.fsdecode(point), options)
        except RuntimeError:
            reason = captured().replace("\n", "; ") or "reason unknown"
            raise _explained(point, reason) from None


def _explained(point: bytes, reason: str) -> MountError:
    """libfuse's or fusermount3's complaint as our error, with what helps."""
    hint = None
    if "/dev/fuse" in reason or "device not found" in reason:
        if not os.path.exists("/dev/fuse"):
            hint = (
                "load the kernel module fuse (modprobe fuse); a container needs --device /dev/fuse"
            )
        elif not os.access("/dev/fuse", os.R_OK | os.W_OK):
            hint = "users must be able to open /dev/fuse: chmod 0666 /dev/fuse as root"
    elif "user_allow_other" in reason:
        hint = "root must put user_allow_other into /etc/fuse.conf for allow_other"
    elif "no write access" in reason or "Permission denied" in reason:
        hint = "a user mounts on a directory of their own"
    return MountError(f"{printable(point)}: cannot mount: {printable(reason)}", hint=hint)


@contextmanager
def _stderr_captured() -> Iterator[Callable[[], str]]:
    """Descriptor 2 goes to a temporary file, which the yielded function reads.

    libfuse and fusermount3 write the only explanation of a failed mount there.
    """
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as capture:
            os.dup2(capture.fileno(), 2)

            def captured() -> str:
                size = os.fstat(capture.fileno()).st_size
                return (
                    os.pread(capture.fileno(), min(size, 4096), 0).decode(errors="replace").strip()
                )

            yield captured
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _option_value(text: str) -> str:
    """`text` as the value of a mount option of libfuse: no comma, no control character."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text).replace(
        ",", ";"
    )
