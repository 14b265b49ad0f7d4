"""Fixtures for all tests: peer programs, an unprivileged user, FUSE, the demo's image.

What a machine lacks is a skip whose reason says how to get it; `tools/setup --peers` installs what
Debian has.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from tests.expected_skips import SkipWatch

# The machine may be busy: no test fails for being slow.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

# Shells ignore SIGINT in what they start in the background; tests of interruptions need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# program -> how to get it
PEERS = {
    "cfsctl": "cargo install composefs-ctl --version 0.9.4 --locked",
    "mkcomposefs": "apt-get install composefs (Debian 13 backports or later), or cfsctl",
    "composefs-info": "apt-get install composefs (Debian 13 backports or later), or cfsctl",
    "mount.composefs": "apt-get install composefs (Debian 13 backports or later), or cfsctl",
    "skopeo": "apt-get install skopeo",
    "umoci": "apt-get install umoci",
    "fsck.erofs": "apt-get install erofs-utils",
    "dump.erofs": "apt-get install erofs-utils",
    "fsverity": "apt-get install fsverity",
    "getfattr": "apt-get install attr",
    "getcap": "apt-get install libcap2-bin",
    "tar": "apt-get install tar",
    "mmdebstrap": "apt-get install mmdebstrap",
}
# cfsctl does the work of the C tools when it is called by their names.
CFSCTL_NAMES = ("mkcomposefs", "composefs-info", "mount.composefs")

Peer = Callable[[str], str]


def lookup_peer(name: str) -> str | None:
    """The program `name`: $CFS_TEST_NAME (dots and dashes as underscores), else from PATH."""
    variable = "CFS_TEST_" + name.upper().replace("-", "_").replace(".", "_")
    chosen = os.environ.get(variable)
    path = shutil.which(chosen or name)
    if chosen and path is None:
        pytest.fail(f"${variable} is {chosen}, which cannot be run")
    # Debian's /usr/sbin is not on an ordinary user's PATH.
    return path or shutil.which(name, path="/usr/sbin:/sbin")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--expected-skips",
        type=Path,
        metavar="FILE",
        help="fail when a test is skipped that FILE does not list (tests/expected_skips.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("expected_skips")
    if path is not None and not hasattr(config, "workerinput"):  # the reports of workers come here
        config.pluginmanager.register(SkipWatch(path), "expected-skips")


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """`peer("fsck.erofs")`: its path; the test is skipped where the program is not installed."""

    def find(name: str) -> str:
        path = lookup_peer(name)
        if path is None and name in CFSCTL_NAMES:
            cfsctl = lookup_peer("cfsctl")
            if cfsctl is not None:
                path = str(tmp_path_factory.mktemp("cfsctl") / name)
                os.symlink(cfsctl, path)
        if path is None:
            pytest.skip(f"needs {name}: {PEERS[name]}")
        return path

    return find


@pytest.fixture
def as_root() -> None:
    """The test needs root, and is skipped without."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo make test")


@dataclass(frozen=True, slots=True)
class User:
    """An ordinary user to run programs as: ourselves, or nobody when we are root."""

    uid: int
    gid: int
    home: str

    def argv(self, *command: str) -> list[str]:
        """`command` with what makes it run as this user in front."""
        if os.geteuid() == self.uid:
            return list(command)
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}"]
        return ["setpriv", *ids, "--clear-groups", *command]

    def environment(self, **more: str) -> dict[str, str]:
        """The environment for this user's programs; they find the packages of this checkout."""
        paths = [CHECKOUT, os.path.join(CHECKOUT, "repo"), os.path.join(CHECKOUT, "tools")]
        paths += [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
        return {**kept, "HOME": self.home, "PYTHONPATH": ":".join(paths), **more}

    def run(
        self, *command: str, check: bool = True, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end; its output is captured as text."""
        done = subprocess.run(
            self.argv(*command),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def cfs(
        self, *arguments: str, check: bool = True, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `cfs ARGUMENTS` as this user."""
        return self.run(
            sys.executable,
            "-m",
            "cfstools",
            *arguments,
            check=check,
            timeout=timeout,
            **environment,
        )


@pytest.fixture
def user() -> Iterator[User]:
    """An unprivileged user with an empty home directory, which goes away with all mounts below."""
    home = tempfile.mkdtemp(prefix="cfsfuse-test-", dir="/var/tmp")
    if os.geteuid() == 0:
        entry = pwd.getpwnam("nobody")
        os.chown(home, entry.pw_uid, entry.pw_gid)
        person = User(entry.pw_uid, entry.pw_gid, home)
        reached = subprocess.run(person.argv("test", "-r", __file__), check=False)
        if reached.returncode:
            pytest.fail("an unprivileged user cannot read this checkout: run `make test`")
    else:
        person = User(os.geteuid(), os.getegid(), home)
    try:
        yield person
    finally:
        for mount in reversed(mounts_below(home)):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(home)


def mounts_below(directory: str) -> list[str]:
    """Mount points below `directory`, in the order they were mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in points if point.startswith(directory + "/")]


@pytest.fixture
def fuse(user: User) -> User:
    """The unprivileged user, who can mount by FUSE; skipped where that is impossible."""
    if shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3: apt-get install fuse3")
    if user.run("test", "-w", "/dev/fuse", check=False).returncode:
        pytest.skip("needs /dev/fuse open to users: as root run tools/setup")
    return user


@pytest.fixture(scope="session")
def demo_image() -> str:
    """`oci:DIRECTORY:TAG` of the demo's image, built once and kept in the cache directory."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap: apt-get install mmdebstrap")
    with tempfile.TemporaryFile() as log, open(os.path.join(CHECKOUT, "Makefile"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel test workers wait for the one that builds
        built = subprocess.run(
            [sys.executable, os.path.join(CHECKOUT, "tools", "build_demo_image.py")],
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
        if built.returncode:
            log.seek(0)
            pytest.fail(f"the demo's image cannot be built:\n{log.read().decode(errors='replace')}")
    return built.stdout.decode().strip()
