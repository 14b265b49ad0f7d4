"""The guest's root file system: a small Debian on ext4 with the verity feature.

Made without root: whoever builds it is root in a user namespace, in which the files belong to 0:0.
"""

from __future__ import annotations

import os
import subprocess
import sys

from vmlib import debian

RELEASE = "trixie"
PYTHON = "3.13"
"""The Python of that release: compiled wheels of the payload are for it."""
PACKAGES = (
    *("attr", "base-files", "bash", "busybox-static", "coreutils", "dash", "diffutils"),
    *("e2fsprogs", "findutils", "fsverity", "fuse3", "gawk", "grep", "kmod", "libc-bin"),
    *("libcap2-bin", "mount", "procps", "sed", "strace", "tar", "util-linux"),
    *("python3", "python3-cffi-backend", "python3-hypothesis", "python3-isal", "python3-pyfuse3"),
    *("python3-pytest", "python3-trio", "python3-xxhash", "python3-zstandard"),
)
# Newer than the release; the libraries they need are in the list above.
COMPOSEFS = ("composefs/sid", "libcomposefs1/sid")
SIZE = "3G"  # sparse
USER = 1000

PASSWD = f"""\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
tester:x:{USER}:{USER}::/home/tester:/bin/sh
"""
GROUP = f"""\
root:x:0:
nogroup:x:65534:
tester:x:{USER}:
"""


def build(source: debian.PackageSource, image: str) -> None:
    """Make the ext4 file system `image`."""
    root = image + ".root"
    os.makedirs(root)
    for name in ("bin", "sbin", "lib"):
        os.makedirs(f"{root}/usr/{name}", exist_ok=True)
        os.symlink(f"usr/{name}", f"{root}/{name}")
    os.makedirs(f"{root}/usr/lib64")
    os.symlink("usr/lib64", f"{root}/lib64")
    debs = source.download(source.resolve(PACKAGES)) + source.download(COMPOSEFS)
    debian.unpack(debs, root)
    _finish(root)
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    script = 'chmod 4755 "$1/usr/bin/fusermount3" && exec mke2fs -q -t ext4 -b 4096 \
        -O verity,^has_journal -d "$1" "$2" "$3"'
    command = [*as_root, "sh", "-c", script, "sh", root, image, SIZE]
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run(command, check=True, env=environment)
    subprocess.run(["rm", "-rf", root], check=True)


def _finish(root: str) -> None:
    """Do what the packages' maintainer scripts would have done."""
    for path in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "home/tester", "var/tmp"):
        os.makedirs(f"{root}/{path}", exist_ok=True)
    files = {
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "etc/nsswitch.conf": "passwd: files\ngroup: files\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/hostname": "vm\n",
    }
    for path, text in files.items():
        with open(f"{root}/{path}", "w", encoding="ascii") as file:
            file.write(text)
    if not os.path.lexists(f"{root}/etc/mtab"):
        os.symlink("/proc/self/mounts", f"{root}/etc/mtab")
    if not os.path.lexists(f"{root}/usr/bin/awk"):
        os.symlink("gawk", f"{root}/usr/bin/awk")
    for path in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
        subprocess.run(["rm", "-rf", f"{root}/{path}"], check=True)
    _compile_python(root)


def _compile_python(root: str) -> None:
    """Byte-compile the guest's modules by the guest's own Python: an emulated one is slow."""
    loader = f"{root}/usr/lib64/ld-linux-x86-64.so.2"
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    program = (
        "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, stripdir=sys.argv[2])"
    )
    for path in ("usr/lib/python3", *_stdlib(root)):
        command = [loader, "--library-path", libraries, f"{root}/usr/bin/python3"]
        environment = {"PYTHONHOME": f"{root}/usr", "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [*command, "-c", program, f"{root}/{path}", root], env=environment, check=False
        )
        if done.returncode:  # slower without, but right
            print(f"vm: {path} is not byte-compiled", file=sys.stderr)


def _stdlib(root: str) -> list[str]:
    names = os.listdir(f"{root}/usr/lib")
    return [f"usr/lib/{name}" for name in names if name.startswith("python3.")]
