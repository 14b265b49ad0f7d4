"""A daemon keeps nothing of its caller, and says why it cannot start."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfsfuse import daemon
from cfsfuse.daemon import Ready
from cfsrepo.errors import InputError, MountError, SystemFailure
from cfsrepo.system.processes import process_start_time


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def test_it_runs_on_its_own(tmp_path: Path, log: int) -> None:
    report = tmp_path / "report"
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)

    def serve(ready: Ready) -> None:
        ready()
        links = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
        text = f"{os.getcwd()} {os.getsid(0) != os.getpid()} {sorted(links.items())}"
        draft = report.with_suffix(".new")
        draft.write_text(text)
        draft.rename(report)

    pid = daemon.run(serve, log, timeout=10)
    os.close(inherited)
    assert pid != os.getpid()
    deadline = time.monotonic() + 10
    while not report.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    directory, no_leader, links = report.read_text().split(" ", 2)
    assert (directory, no_leader) == ("/", "True")
    path = str(tmp_path / "log")
    assert links == str([(0, "/dev/null"), (1, path), (2, path)])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("what: is wrong", hint="do that"), InputError),
        (FileNotFoundError(2, "No such file or directory", "/some/where"), SystemFailure),
    ],
)
def test_an_error_before_it_is_ready_is_the_callers(
    log: int, error: Exception, kind: type[Exception]
) -> None:
    def serve(ready: Ready) -> None:
        raise error

    with pytest.raises(kind) as caught:
        daemon.run(serve, log, timeout=10)
    if isinstance(error, InputError):
        assert str(caught.value) == "what: is wrong"
        assert getattr(caught.value, "hint", None) == "do that"
    else:
        assert "/some/where: No such file" in str(caught.value)


def test_a_defect_is_in_the_log(tmp_path: Path, log: int) -> None:
    def serve(ready: Ready) -> None:
        raise ZeroDivisionError("defect")

    with pytest.raises(MountError, match="ended before the mount was ready"):
        daemon.run(serve, log, timeout=10)
    assert "ZeroDivisionError: defect" in (tmp_path / "log").read_text()


def test_killed_before_it_is_ready(log: int) -> None:
    def serve(ready: Ready) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MountError, match="ended before"):
        daemon.run(serve, log, timeout=10)


def test_it_does_not_wait_for_ever(tmp_path: Path, log: int) -> None:
    pid_file = tmp_path / "pid"

    def serve(ready: Ready) -> None:
        pid_file.write_text(str(os.getpid()))
        time.sleep(100)

    with pytest.raises(MountError, match="in time"):
        daemon.run(serve, log, timeout=0.5)
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while process_start_time(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start_time(pid) is None


@pytest.mark.parametrize("obeys", [True, False])
def test_an_interrupted_start_ends_the_daemon_and_is_undone(
    tmp_path: Path, log: int, obeys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_PATIENCE", 0.5)
    waiting = tmp_path / "pid"
    done: list[int | None] = []

    def serve(ready: Ready) -> None:
        if not obeys:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        waiting.with_suffix(".new").write_text(str(os.getpid()))
        waiting.with_suffix(".new").rename(waiting)
        time.sleep(100)

    def interrupt() -> None:
        while not waiting.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def undo() -> None:
        done.append(process_start_time(int(waiting.read_text())))

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        daemon.run(serve, log, timeout=60, undo=undo)
    interrupter.join()
    assert done == [None]  # once, after the daemon had ended


def test_signals_are_as_a_daemon_needs_them(tmp_path: Path, log: int) -> None:
    report = tmp_path / "report"

    def serve(ready: Ready) -> None:
        states = [
            signal.getsignal(number) is signal.SIG_IGN
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
        ]
        report.write_text(str(states))
        ready()

    daemon.run(serve, log, timeout=10)
    assert report.read_text() == "[True, True, True, False]"


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    daemon.notify_service_manager()
    for address in (str(tmp_path / "notify"), "@cfsfuse-test-notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(10)
            manager.bind(address.replace("@", "\0"))
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            daemon.notify_service_manager()
            assert manager.recv(100) == b"READY=1"
