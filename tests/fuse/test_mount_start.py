"""A mount that does not come about leaves nothing, and says why; a server outlives its clients."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import User, mounts_below
from tests.fuse.mounting import Mounted, wait_for_end

pytestmark = pytest.mark.fuse

# Mounts, then waits at the gate as a slow machine would; unmounts at once.
SLOW_HELPER = """#!/bin/sh
case " $* " in *" -u "*) exec {program} "$@" ;; esac
{program} "$@" || exit
echo > {directory}/mounted
cat {directory}/gate
"""


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition()` holds; the test fails where that takes too long."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Start:
    """A `cfs mount` that stands still when the kernel has made the mount."""

    def __init__(self, unmounted: Mounted, directory: Path) -> None:
        program = shutil.which("fusermount3")
        self.directory = directory
        self.gate = directory / "gate"
        os.mkfifo(self.gate)
        helper = directory / "fusermount3"
        helper.write_text(SLOW_HELPER.format(program=program, directory=directory))
        helper.chmod(0o755)
        self.unmounted = unmounted

    def __enter__(self) -> subprocess.Popen[str]:
        unmounted = self.unmounted
        command = [sys.executable, "-m", "cfstools", "mount", str(unmounted.made.image_file)]
        command += [unmounted.point, "--objects", str(unmounted.made.object_dir)]
        command += ["--engine", str(unmounted.engine)]
        path = f"{self.directory}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            unmounted.user.argv(*command),
            env=unmounted.user.environment(XDG_RUNTIME_DIR=unmounted.runtime, PATH=path),
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        until((self.directory / "mounted").exists)
        return self.process

    def go_on(self) -> bool:
        """Let the helper end; False where it does not wait at the gate (yet, or any more)."""
        try:
            os.close(os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(unmounted: Mounted) -> Iterator[Start]:
    directory = Path(unmounted.user.home, "slow")
    unmounted.user.run("mkdir", str(directory))
    directory.chmod(0o777)
    return Start(unmounted, directory)


def test_an_interrupted_start_takes_back_what_was_mounted(start: Start) -> None:
    with start as process:
        assert mounts_below(start.unmounted.user.home) == [start.unmounted.point]
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=30)
        assert process.returncode == 130
        assert text.splitlines()[-1] == "cfs: interrupted"
        assert mounts_below(start.unmounted.user.home) == []


def test_a_server_whose_caller_was_killed_takes_back_the_mount(start: Start) -> None:
    with start as process:
        process.kill()
        process.wait()
        assert mounts_below(start.unmounted.user.home) == [start.unmounted.point]
        until(start.go_on)
        until(lambda: not mounts_below(start.unmounted.user.home))
        until(lambda: os.listdir(f"{start.unmounted.runtime}/cfsfuse") == [])


def test_clients_that_go_away_do_not_end_a_server(unmounted: Mounted) -> None:
    command = [sys.executable, "-m", "cfstools", "mount", str(unmounted.made.image_file)]
    command += [unmounted.point, "--objects", str(unmounted.made.object_dir), "--foreground"]
    command += ["--engine", str(unmounted.engine)]
    process = subprocess.Popen(
        unmounted.user.argv(*command),
        env=unmounted.user.environment(XDG_RUNTIME_DIR=unmounted.runtime),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "mounted" in process.stderr.readline()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(f"{unmounted.runtime}/cfsfuse/{process.pid}.sock")
    (row,) = unmounted.mounts()
    assert (row["pid"], row["state"]) == (process.pid, "live")
    unmounted.umount()
    wait_for_end(process.pid)
    process.communicate()
    assert process.returncode == 0


@pytest.mark.usefixtures("as_root")
def test_a_user_without_a_name_is_told_what_is_missing(unmounted: Mounted) -> None:
    stranger = User(54321, 54321, unmounted.user.home)
    os.chown(unmounted.user.home, 54321, 54321)
    os.chown(unmounted.point, 54321, 54321)
    unmounted.user = stranger
    done = unmounted.mount(check=False)
    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert "user id 54321 has no entry in /etc/passwd" in line
    assert "as root: echo user54321:x:54321:54321:" in line
    assert mounts_below(stranger.home) == []


@pytest.mark.usefixtures("as_root")
def test_a_planted_directory_of_records_is_in_nobodys_way(unmounted: Mounted) -> None:
    os.mkdir(f"{unmounted.runtime}/cfsfuse")  # by root: not the user's own
    unmounted.mount()
    done = unmounted.cfs("mounts")
    assert unmounted.point in done.stdout
    assert "cannot be read" in done.stderr
    unmounted.umount()
    assert mounts_below(unmounted.user.home) == []
