"""Loop devices: a file as a block device, for kernels that cannot mount the file itself.

Reference: linux/loop.h, loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cfsrepo.system import linux

_CONTROL: Final = "/dev/loop-control"
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LO_FLAGS_READ_ONLY: Final = 1
_LO_FLAGS_AUTOCLEAR: Final = 4
# struct loop_config: fd, block size, struct loop_info64 (its flags at 52), 64 bytes reserved
_CONFIG = struct.Struct("=II 52xI 64x64x32x16x 64x")
_ATTEMPTS: Final = 64


@contextmanager
def attached(fd: int, block_size: int = 4096) -> Iterator[str]:
    """The path of a read-only loop device of the file `fd`.

    The kernel detaches the device after its last user: a mount made in the body keeps it attached.
    """
    with linux.opened(_CONTROL, os.O_RDWR) as control:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            with linux.opened(path, os.O_RDONLY) as device:
                config = _CONFIG.pack(fd, block_size, _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR)
                try:
                    fcntl.ioctl(device, _LOOP_CONFIGURE, config)
                except OSError as error:
                    if error.errno == errno.EBUSY:  # somebody took it between the two calls
                        continue
                    raise
                yield path
                return
    raise OSError(errno.EBUSY, "no free loop device", _CONTROL)
