"""Real FUSE mounts by an unprivileged user, served by both engines."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from cfsfuse.options import Engine
from cfsrepo.store.repository import Repository
from tests.fuse.fuse_helpers import LARGE
from tests.fuse.mounting import Mounted, wait_for_end

pytestmark = pytest.mark.fuse


def test_files_read_map_and_run(mounted: Mounted) -> None:
    contents = mounted.made.contents
    for name in ("empty", "inline", "file-65", "file-131073", "large", "link-a", "7f/link-c"):
        assert bytes.fromhex(mounted.probe(f"read(b'{name}')")) == contents[b"/" + name.encode()]
    assert bytes.fromhex(mounted.probe("mapped(b'large')")) == contents[b"/large"]
    assert mounted.probe("attempt(lambda: os.execv(path(b'inline'), ['x']))") == "EACCES"


def test_attributes(mounted: Mounted) -> None:
    found = mounted.probe("[os.lstat(path(n)) for n in (b'far', b'old', b'link-a', b'7f/link-c')]")
    far, old, one, other = found
    assert far[4:6] == [(1 << 32) - 2, 1 << 31]
    assert far[8] == 1 << 33
    assert mounted.probe("os.lstat(path(b'old')).st_mtime_ns") == -5 * 1_000_000_000 + 25
    assert one == other
    assert one[3] == 3
    assert old[6] == 100
    assert mounted.probe("os.lstat(path(b'disk')).st_rdev") == os.makedev(259, 70000)
    assert mounted.probe("os.lstat(path(b'large')).st_blocks") == -(-LARGE // 4096) * 8


def test_directories(mounted: Mounted) -> None:
    names = mounted.probe("sorted(os.listdir(path(b'many')))")
    assert len(names) == 600
    top = mounted.probe("len(os.listdir(point))")
    assert top == len(mounted.made.root.entries or {})
    assert mounted.probe("attempt(lambda: os.lstat(path(b'01')))") == "ENOENT"
    assert mounted.probe("attempt(lambda: os.lstat(path(b'-')))") == "ENOENT"


def test_symlinks(mounted: Mounted) -> None:
    assert mounted.probe("[os.readlink(path(n)).decode() for n in (b'symlink', b'dangling')]") == [
        "inline",
        "/no/where",
    ]
    assert mounted.probe("len(os.readlink(path(b'long-symlink')))") == 4095


def test_xattrs(mounted: Mounted) -> None:
    shown = mounted.probe("sorted(os.listxattr(path(b'xattrs')))")
    assert shown == ["security.capability", "user.empty", "user.note"]
    assert mounted.probe("os.getxattr(path(b'xattrs'), 'user.note').decode()") == "hello"
    assert mounted.probe("attempt(lambda: os.getxattr(path(b'xattrs'), 'user.no'))") == "ENODATA"
    assert mounted.probe("os.listxattr(path(b'inline'))") == []


@pytest.mark.parametrize(
    "attempt",
    [
        "os.mkdir(path(b'new'))",
        "os.unlink(path(b'inline'))",
        "os.rmdir(path(b'empty-dir'))",
        "os.rename(path(b'inline'), path(b'x'))",
        "os.link(path(b'inline'), path(b'x'))",
        "os.symlink('a', path(b'x'))",
        "os.chmod(path(b'inline'), 0o777)",
        "os.utime(path(b'inline'))",
        "os.truncate(path(b'inline'), 0)",
        "os.mkfifo(path(b'x'))",
        "os.setxattr(path(b'inline'), 'user.x', b'')",
        "os.removexattr(path(b'xattrs'), 'user.note')",
        "open(path(b'inline'), 'r+b')",
        "open(path(b'new'), 'wb')",
        "os.access(path(b'inline'), os.W_OK) or os.mkdir(path(b'y'))",
    ],
)
def test_every_write_is_refused(mounted: Mounted, attempt: str) -> None:
    if mounted.engine is Engine.PYFUSE3 and "mkdir" not in attempt:
        pytest.skip("the kernel refuses these before any server sees them")
    assert mounted.probe(f"attempt(lambda: {attempt})") == "EROFS"


def test_holes_are_not_claimed(mounted: Mounted) -> None:
    assert mounted.probe("seek(b'large', 5, os.SEEK_DATA)") == 5
    assert mounted.probe("seek(b'inline', 0, os.SEEK_DATA)") == 0
    assert mounted.probe("seek(b'large', 5, os.SEEK_HOLE)") == LARGE
    assert mounted.probe(f"attempt(lambda: seek(b'large', {LARGE}, os.SEEK_DATA))") == "ENXIO"


def test_access_is_what_can_be_done(mounted: Mounted) -> None:
    for name, mode, expected in (
        ("inline", "R_OK", True),
        ("inline", "X_OK", False),
        ("large", "X_OK", True),
        ("7f", "R_OK | os.X_OK", True),
    ):
        assert mounted.probe(f"os.access(path(b'{name}'), os.{mode})") is expected, name


def test_statfs(mounted: Mounted) -> None:
    found = mounted.probe("list(os.statvfs(point))")
    usage = mounted.made.view().usage()
    assert found[0:3] == [4096, 4096, usage.blocks]
    assert found[3:6] == [0, 0, usage.files]


def test_it_keeps_nothing_of_the_caller(unmounted: Mounted) -> None:
    """The pipe of a caller that waits for the end of the output closes with `cfs mount`."""
    receiver, sender = os.pipe()
    command = unmounted.user.argv(
        sys.executable,
        "-m",
        "cfstools",
        "mount",
        str(unmounted.made.image_file),
        unmounted.point,
        "--objects",
        str(unmounted.made.object_dir),
        "--engine",
        str(unmounted.engine),
    )
    process = subprocess.Popen(
        command,
        env=unmounted.user.environment(XDG_RUNTIME_DIR=unmounted.runtime),
        stdout=sender,
        stderr=sender,
        stdin=subprocess.DEVNULL,
    )
    os.close(sender)
    fcntl.fcntl(receiver, fcntl.F_SETFL, os.O_NONBLOCK)
    assert process.wait(30) == 0
    assert os.read(receiver, 1000) == b""  # the end, not EAGAIN: nobody holds it any more
    os.close(receiver)
    (row,) = unmounted.mounts()
    assert os.readlink(f"/proc/{row['pid']}/cwd") == "/"


def test_the_list_of_mounts(mounted: Mounted) -> None:
    mounted.probe("read(b'large')")
    (row,) = mounted.mounts()
    assert row["state"] == "live"
    assert (row["engine"], row["verify"], row["mode"]) == (str(mounted.engine), "auto", "fuse")
    assert row["requests"] > 0
    assert row["verified_bytes"] >= LARGE
    table = mounted.cfs("mounts").stdout
    assert str(row["pid"]) in table
    mounted.umount()
    assert mounted.mounts() == []


def test_a_second_mount_at_the_same_place_is_refused(mounted: Mounted) -> None:
    done = mounted.mount(check=False)
    assert done.returncode == 7
    assert "busy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_mounts_of_one_image(mounted: Mounted) -> None:
    first = mounted.point
    mounted.point = first + "-2"
    mounted.user.run("mkdir", mounted.point)
    mounted.mount()
    (second_row,) = mounted.mounts()
    assert mounted.probe("len(read(b'large'))") == 2 * LARGE
    mounted.umount()
    mounted.point = first
    (first_row,) = mounted.mounts()
    assert first_row["pid"] != second_row["pid"]
    assert mounted.probe("len(read(b'large'))") == 2 * LARGE


def test_umount_all(unmounted: Mounted) -> None:
    """In a mount namespace of its own: all mounts of the user are really all."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace: sudo make test")
    user = unmounted.user
    other = f"{unmounted.point}-2"
    user.run("mkdir", other)
    script = f"""
        set -e
        for point in {unmounted.point} {other}; do
            "$@" mount {unmounted.made.image_file} $point \
                --objects {unmounted.made.object_dir} --engine {unmounted.engine}
        done
        "$@" mounts
        "$@" umount --all
        "$@" mounts
    """
    cfs = user.argv(sys.executable, "-m", "cfstools")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *cfs],
        env=user.environment(XDG_RUNTIME_DIR=unmounted.runtime),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(unmounted.point) == 2


def test_sigterm_ends_it_cleanly(mounted: Mounted) -> None:
    (row,) = mounted.mounts()
    os.kill(row["pid"], signal.SIGTERM)
    wait_for_end(row["pid"])
    assert mounted.mounts() == []
    assert "unmounted" in mounted.log()
    assert os.listdir(os.path.join(mounted.runtime, "cfsfuse")) == []


def test_a_killed_server_leaves_a_dead_mount_that_is_cleared(mounted: Mounted) -> None:
    (row,) = mounted.mounts()
    assert mounted.probe("attempt(lambda: len(os.listdir(point)))") > 10
    os.kill(row["pid"], signal.SIGKILL)
    wait_for_end(row["pid"])
    # Dead, and not an empty directory that a copying tool would take for the truth.
    # (What the kernel has cached may still be shown.)
    assert mounted.probe("attempt(lambda: os.listdir(path(b'many')))") == "ENOTCONN"
    assert mounted.probe("attempt(lambda: os.listdir(point))") != []
    (row,) = mounted.mounts()
    assert row["state"] == "dead"
    done = mounted.mount()
    assert "clearing" in done.stderr
    assert mounted.probe("attempt(lambda: len(os.listdir(point)))") > 10
    (row,) = mounted.mounts()
    os.kill(row["pid"], signal.SIGKILL)
    wait_for_end(row["pid"])
    mounted.umount()
    assert mounted.mounts() == []


def test_busy_is_said_and_lazy_helps(mounted: Mounted) -> None:
    holder = subprocess.Popen(
        mounted.user.argv("sh", "-c", "cd mnt && echo in && exec sleep 100"),
        cwd=mounted.user.home,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"in\n"
    done = mounted.umount(check=False)
    assert done.returncode == 7
    assert "busy" in done.stderr
    mounted.umount("--lazy")
    assert mounted.mounts() == []
    holder.kill()
    holder.wait()


def test_owners_subdirectory_and_permissions(unmounted: Mounted) -> None:
    unmounted.mount("--uid", "77", "-o", "gid=78,subdir=deep/d")
    assert unmounted.probe("os.lstat(path(b'd'))[4:6]") == [77, 78]
    assert unmounted.probe("os.listdir(point)") == ["b'd'"]
    unmounted.umount()
    unmounted.mount("--idmap", "0:5000:10")
    assert unmounted.probe("os.lstat(path(b'many'))[4:6]") == [5000, 5000]
    assert unmounted.probe("os.lstat(path(b'inline'))[4:6]") == [65534, 65534]
    unmounted.umount()
    unmounted.mount("--enforce-permissions")
    assert unmounted.probe("attempt(lambda: read(b'inline'))") == "EACCES"
    assert unmounted.probe("attempt(lambda: os.listdir(path(b'7f')))") == "EACCES"


def test_damage_is_eio_and_one_line_in_the_log(mounted: Mounted) -> None:
    mounted.made.objects[b"/file-4096"].write_bytes(bytes(4096))
    mounted.made.objects[b"/file-4097"].unlink()
    for _ in range(2):
        assert mounted.probe("attempt(lambda: read(b'file-4096'))") == "EIO"
        assert mounted.probe("attempt(lambda: read(b'file-4097'))") == "EIO"
    assert len(mounted.probe("read(b'file-4095')")) == 2 * 4095
    mounted.umount()
    errors = [line for line in mounted.log().splitlines() if "ERROR" in line]
    assert len(errors) == 2
    assert "/file-4096" in errors[0]
    assert "/file-4097" in errors[1]
    assert mounted.made.objects[b"/file-4097"].name in errors[1]


def test_what_cannot_be_mounted_is_said_in_a_line(unmounted: Mounted) -> None:
    user = unmounted.user
    file = os.path.join(user.home, "file")
    user.run("touch", file)
    foreign = os.path.join(user.home, "foreign")
    cases = [(file, "not a directory"), (os.path.join(user.home, "no"), "No such file")]
    if os.geteuid() == 0:
        os.mkdir(foreign, 0o755)
        cases.append((foreign, "no write access"))
    for point, reason in cases:
        unmounted.point = point
        done = unmounted.mount(check=False)
        assert (done.returncode, done.stdout) == (7, "")
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
    unmounted.point = os.path.join(user.home, "mnt")
    unmounted.made.image_file.write_bytes(b"no image" * 1000)
    done = unmounted.mount(check=False)
    assert done.returncode == 4
    assert "no composefs header" in done.stderr


def test_the_image_of_a_repository_is_checked_and_pinned(unmounted: Mounted) -> None:
    user = unmounted.user
    path = os.path.join(user.home, "repository")
    user.cfs("--repo", path, "init")
    program = (
        "import sys; from cfsrepo.store.repository import Repository;"
        "print(Repository.open(sys.argv[1]).add_image(open(sys.argv[2], 'rb').read(), 'name'))"
    )
    image_id = user.run(
        sys.executable, "-c", program, path, str(unmounted.made.image_file)
    ).stdout.strip()
    mount = ["--repo", path, "mount", "name", unmounted.point, "--engine", str(unmounted.engine)]
    unmounted.cfs(*mount)
    (pin,) = os.listdir(os.path.join(path, "cfsfuse/pins"))
    pinned = json.loads(Path(path, "cfsfuse/pins", pin).read_text())
    (row,) = unmounted.mounts()
    assert (pinned["image_id"], pinned["pid"]) == (image_id, row["pid"])
    assert row["image_id"] == image_id
    # The lock of the repository is free while it is mounted.
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    unmounted.umount()
    assert os.listdir(os.path.join(path, "cfsfuse/pins")) == []
    with Repository.open(path) as repository:
        file = os.path.join(repository.objects.path, image_id[:2], image_id[2:])
    data = bytearray(Path(file).read_bytes())
    data[len(data) // 2] ^= 1
    Path(file).write_bytes(data)
    done = unmounted.cfs(*mount, check=False)
    assert done.returncode == 5
    assert "digest" in done.stderr
    assert os.listdir(os.path.join(path, "cfsfuse/pins")) == []


def test_in_the_foreground(unmounted: Mounted) -> None:
    process = subprocess.Popen(
        unmounted.user.argv(
            sys.executable,
            "-m",
            "cfstools",
            "mount",
            str(unmounted.made.image_file),
            unmounted.point,
            "--objects",
            str(unmounted.made.object_dir),
            "--engine",
            str(unmounted.engine),
            "--foreground",
        ),
        env=unmounted.user.environment(XDG_RUNTIME_DIR=unmounted.runtime),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "mounted" in process.stderr.readline()
    assert unmounted.mounts()[0]["pid"] == process.pid
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "ending on SIGINT" in process.stderr.read()
    assert unmounted.mounts() == []


def test_the_mount_outlives_the_callers_page_cache(mounted: Mounted) -> None:
    """What was read once is not asked for again: no request, no byte checked twice."""
    verified = []
    for _ in range(6):
        mounted.probe("read(b'large')")
        verified.append(mounted.mounts()[0]["verified_bytes"])
    # Something else on the machine may empty the page cache in between, but not each time.
    assert any(after == before for before, after in pairwise(verified))


def test_unmounting_an_image_wherever_it_is(mounted: Mounted) -> None:
    first = mounted.point
    mounted.point = first + "-2"
    mounted.user.run("mkdir", mounted.point)
    mounted.mount()
    done = mounted.cfs("umount", "no-such-image", check=False)
    assert done.returncode == 7
    assert "neither a mount nor a mounted image" in done.stderr
    assert len(mounted.mounts()) == 1
    mounted.cfs("umount", mounted.mounts()[0]["image"])
    assert mounted.mounts() == []
    mounted.point = first
    assert mounted.mounts() == []


def test_a_mount_point_with_a_carriage_return(unmounted: Mounted) -> None:
    unmounted.point += "\r\x0b\x1c"
    unmounted.user.run("mkdir", unmounted.point)
    unmounted.mount()
    assert len(unmounted.mounts()) == 1
    unmounted.umount()
    assert unmounted.mounts() == []


def test_verbose_says_what_serves(unmounted: Mounted) -> None:
    done = unmounted.mount("-v")
    assert "served by" in done.stderr
    if unmounted.engine is Engine.PYFUSE3:
        version = importlib.metadata.version("pyfuse3")
        assert f"served by pyfuse3 {version}" in done.stderr
        assert ("a stock one" in done.stderr) == ("+stateless" not in version)
