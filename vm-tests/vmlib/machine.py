"""The virtual machine: started, watched, ended.

q35, one processor, no network. The kernel's messages go to a file, the tests' output to ours, and
results come as a tar through a virtio port: none mixes with another. With hardware virtualisation
where it is real, else emulated: under emulation a second processor is slower and once in a hundred
boots makes the kernel crash.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import dataclass

COMMAND_LINE = "console=ttyS0 panic=-1 quiet loglevel=4 nokaslr mitigations=off"
MEMORY = "1536M"


class MachineError(Exception):
    """The machine did not boot, hung or died: nothing is known about the tests."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What to boot."""

    kernel: str
    initrd: str
    root: str  # ext4 image; what the guest writes to it is thrown away
    payload: str  # tar


def accelerator() -> list[str]:
    """QEMU's arguments for the fastest way to run a guest here.

    /dev/kvm alone says little: on a processor without the extensions (a nested machine with
    software KVM) QEMU starts with it and then the guest hangs.
    """
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        virtualisation = re.search(r"^flags\s*:.*\b(vmx|svm)\b", file.read(), re.MULTILINE)
    if virtualisation and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg", "-cpu", "max"]


def run(guest: Guest, directory: str, limit: float) -> dict[str, bytes]:
    """Boot `guest` and wait until it powers itself off; returns the files it reports.

    `directory` keeps `console.log`. The machine is killed after `limit` seconds. MachineError where
    there is no complete report.
    """
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise MachineError("needs qemu-system-x86_64: tools/setup --vm installs it")
    console = os.path.join(directory, "console.log")
    results = os.path.join(directory, "results.tar")
    command = [
        program,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-M", "q35", *accelerator(), "-smp", "1", "-m", MEMORY),
        *("-kernel", guest.kernel, "-initrd", guest.initrd, "-append", COMMAND_LINE),
        *("-serial", f"file:{console}", "-serial", "stdio"),
        *_disk("root", guest.root, "on"),
        *_disk("payload", guest.payload, "on"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-chardev", f"file,id=results,path={results}"),
        *("-device", "virtserialport,chardev=results,name=results"),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as machine:
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            machine.kill()

        timer = threading.Timer(limit, kill)
        timer.start()
        try:
            assert machine.stdout is not None
            for line in machine.stdout:
                sys.stdout.write(line.decode(errors="replace").replace("\r", ""))
                sys.stdout.flush()
        finally:
            timer.cancel()
            machine.kill()
    if killed.is_set():
        raise MachineError(f"no end after {limit:.0f} s: killed; {console} has its messages")
    return _report(results, console)


def _disk(name: str, path: str, snapshot: str) -> list[str]:
    drive = f"file={path},format=raw,if=none,id={name},snapshot={snapshot},cache=unsafe"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _report(path: str, console: str) -> dict[str, bytes]:
    """The files in the tar that came through the port."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            report = {}
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    report[os.path.basename(member.name)] = content.read()
    except (OSError, tarfile.TarError) as error:
        raise MachineError(f"the guest died: {error}; {console} has its messages") from error
    if "exit-code" not in report:
        raise MachineError(f"the guest's report is incomplete; {console} has its messages")
    return report
