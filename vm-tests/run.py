#!/usr/bin/env python3
"""Run the tests in vm-tests/tests inside a virtual machine whose kernel has fs-verity.

usage: run.py [--kernel=stable|backports] [--limit=SECONDS] [--rebuild] [PYTEST ARGUMENT...]

Builds what is missing first: a guest kernel and a small root file system from Debian packages, kept
in a cache directory. Exit code: pytest's, or 70 where the machine itself failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(CHECKOUT, "tools")]

from vmlib import debian, initrd, kernel, machine, payload, root  # noqa: E402

import imagebuilder  # noqa: E402 - found through the line above

RELEASES = (root.RELEASE, f"{root.RELEASE}-backports", "sid")
KERNELS = {
    "stable": kernel.PACKAGE,
    "backports": f"{kernel.PACKAGE}/{root.RELEASE}-backports",
}
MACHINE_FAILED = 70
BOOTS = 2  # a machine that dies gets one more chance; then it is an error


def fingerprint(*parts: object) -> str:
    """A short name for what is built from `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def source_of(module: object) -> str:
    """The source text of a module: what it builds depends on it."""
    with open(str(getattr(module, "__file__", None)), encoding="utf-8") as file:
        return file.read()


def prepare(name: str, cache: str) -> tuple[str, str]:
    """Directory of the guest kernel, path of the root file system; built where missing."""
    packages = debian.PackageSource(os.path.join(cache, "apt"), RELEASES)
    system = os.path.join(cache, f"root-{fingerprint(source_of(root))}")
    if not os.path.isdir(system):
        imagebuilder.say("vm: building the root file system from Debian packages ...")
        with imagebuilder.new_directory(system) as new:
            root.build(packages, os.path.join(new, "root.ext4"))
    chosen = os.path.join(
        cache, f"kernel-{name}-{fingerprint(source_of(kernel), source_of(initrd))}"
    )
    if not os.path.isdir(chosen):
        imagebuilder.say(f"vm: getting the kernel {KERNELS[name]} ...")
        with imagebuilder.new_directory(chosen) as new:
            kernel.extract(packages, KERNELS[name], new)
            busybox = subprocess.run(
                ["debugfs", "-R", "cat /usr/bin/busybox", os.path.join(system, "root.ext4")],
                check=True,
                capture_output=True,
                env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
            ).stdout
            initrd.build(os.path.join(new, "initrd"), busybox, os.path.join(new, "modules"))
    return chosen, os.path.join(system, "root.ext4")


def main() -> int:
    """Build, boot, report."""
    parser = argparse.ArgumentParser(description="Run the tests that need a kernel with fs-verity.")
    parser.add_argument("--kernel", choices=KERNELS, default=os.environ.get("VM_KERNEL", "stable"))
    parser.add_argument("--limit", type=float, default=900, help="seconds after which it is killed")
    parser.add_argument("--rebuild", action="store_true", help="forget what was built earlier")
    args, arguments = parser.parse_known_args()
    cache = os.path.join(imagebuilder.cache_directory(), "vm")
    if args.rebuild:
        shutil.rmtree(cache, ignore_errors=True)
    os.makedirs(cache, exist_ok=True)
    kernel_directory, root_image = prepare(args.kernel, cache)
    builder = [sys.executable, os.path.join(CHECKOUT, "tools", "build_demo_image.py")]
    image = subprocess.run(builder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="cfsfuse-vm-") as scratch:
        tar = os.path.join(scratch, "payload.tar")
        payload.build(tar, CHECKOUT, image.split(":")[1], arguments)
        guest = machine.Guest(
            os.path.join(kernel_directory, "vmlinux"),
            os.path.join(kernel_directory, "initrd"),
            root_image,
            tar,
        )
        for attempt in range(1, BOOTS + 1):
            began = time.monotonic()
            how = machine.accelerator()[1]
            imagebuilder.say(f"vm: booting (kernel {args.kernel}, {how})")
            try:
                report = machine.run(guest, scratch, args.limit)
                break
            except machine.MachineError as error:
                imagebuilder.say(f"vm: {error}")
                show_console(scratch)
                if attempt == BOOTS:
                    return MACHINE_FAILED
        imagebuilder.say(f"vm: powered off after {time.monotonic() - began:.0f} s")
    keep(report, os.path.join(CHECKOUT, ".cache", "vm-test"))
    return int(report["exit-code"])


def show_console(directory: str) -> None:
    """The end of the kernel's messages: all that is known of a machine that died."""
    try:
        with open(
            os.path.join(directory, "console.log"), encoding="utf-8", errors="replace"
        ) as log:
            imagebuilder.say("".join(log.readlines()[-40:]))
    except FileNotFoundError:
        imagebuilder.say("vm: it did not even start")


def keep(report: dict[str, bytes], directory: str) -> None:
    """Leave the guest's report where a reader finds it."""
    os.makedirs(directory, exist_ok=True)
    for name, data in report.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    sys.exit(main())
