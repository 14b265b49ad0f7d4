"""The initial RAM disk: a static busybox, the kernel's modules, the script that starts it all."""

from __future__ import annotations

import os

# Finds its disks by serial number: the order in which the kernel names them is not fixed.
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /newroot
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod $module; done
disk() {
    for serial in /sys/block/vd*/serial; do
        [ "$(/bin/busybox cat $serial)" = "$1" ] || continue
        name=${serial%/serial}
        echo /dev/${name##*/}
    done
}
/bin/busybox mount -t ext4 "$(disk root)" /newroot
/bin/busybox mkdir -p /newroot/vm
/bin/busybox tar -x -f "$(disk payload)" -C /newroot/vm
for kernel in dev proc sys; do /bin/busybox mount -o move /$kernel /newroot/$kernel; done
exec /bin/busybox switch_root /newroot /vm/guest/init
"""


def build(path: str, busybox: bytes, modules: str) -> None:
    """Write the RAM disk `path`; `modules` is a directory of modules, numbered in load order."""
    archive = Cpio()
    archive.directory("bin")
    archive.directory("modules")
    archive.file("bin/busybox", busybox, 0o755)
    archive.file("init", INIT.encode(), 0o755)
    for name in sorted(os.listdir(modules)):
        with open(os.path.join(modules, name), "rb") as file:
            archive.file(f"modules/{name}", file.read(), 0o644)
    with open(path, "wb") as out:
        out.write(archive.finish())


class Cpio:
    """A `newc` archive, as Documentation/driver-api/early-userspace/buffer-format.rst has it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def directory(self, name: str) -> None:
        """Add a directory."""
        self._entry(name, 0o040755, b"")

    def file(self, name: str, data: bytes, mode: int) -> None:
        """Add a regular file."""
        self._entry(name, 0o100000 | mode, data)

    def finish(self) -> bytes:
        """The archive."""
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        # ino mode uid gid nlink mtime size, device and rdev numbers, length of the name, check
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        head = header + path
        self._parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
