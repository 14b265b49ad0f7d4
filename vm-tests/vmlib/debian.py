"""Debian packages without installing them: resolved, downloaded and unpacked by any user.

apt works on a private state with an empty list of installed packages, so that it resolves all that
a fresh system needs, of any release, whatever this machine runs. No maintainer script runs.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEFAULT_ARCHIVE = "http://deb.debian.org/debian"


def archive() -> str:
    """Where this machine gets Debian's packages from."""
    form = "$(ORIGIN)|$(RELEASE)|$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        origin, release, uri = line.split("|")
        if origin == "Debian" and "security" not in release:
            return uri.rstrip("/")
    return DEFAULT_ARCHIVE


class PackageSource:
    """A private apt in `directory`, which knows `releases`; packages come from the first of them.

    A package is named as apt does it: `name`, or `name/release` for one of another release.
    """

    def __init__(self, directory: str, releases: Sequence[str]) -> None:
        self.directory = directory
        self._updated = False
        for path in ("state/lists/partial", "cache/archives/partial", "debs"):
            os.makedirs(os.path.join(directory, path), exist_ok=True)
        with open(self._path("status"), "w", encoding="utf-8"):
            pass
        option = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
        with open(self._path("sources.list"), "w", encoding="utf-8") as file:
            for release in releases:
                file.write(f"deb {option}{archive()} {release} main\n")
        settings = {
            "Dir::State": self._path("state"),
            "Dir::State::status": self._path("status"),
            "Dir::Cache": self._path("cache"),
            "Dir::Etc::sourcelist": self._path("sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Default-Release": releases[0],
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        self._options = [f"-o{key}={value}" for key, value in settings.items()]

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _apt_get(self, *arguments: str, directory: str = "debs") -> str:
        done = subprocess.run(
            ["apt-get", *self._options, "--quiet", *arguments],
            cwd=self._path(directory),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"apt-get {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def resolve(self, packages: Iterable[str]) -> list[str]:
        """`packages` and all they depend on, as `name=version`."""
        self._update()
        planned = self._apt_get("--simulate", "install", *packages)
        # Inst libc6 (2.41-12 Debian:13.1/stable [amd64])
        found = re.findall(r"^Inst (\S+) \((\S+) ", planned, re.MULTILINE)
        return [f"{name}={version}" for name, version in found]

    def download(self, packages: Iterable[str]) -> list[str]:
        """Paths of exactly `packages`; those downloaded earlier are not fetched again.

        A package is `name=version`, `name` or `name/release`.
        """
        self._update()
        wanted = list(packages)
        # Asked where there are no packages: apt does not name those that are there already.
        planned = self._apt_get("--print-uris", "download", *wanted, directory="state")
        # 'http://host/pool/c/composefs/composefs_1.0.8-3_amd64.deb' composefs_1.0.8-3_amd64.deb ...
        paths = [self._path(f"debs/{name}") for name in re.findall(r"^'\S+' (\S+)", planned, re.M)]
        if not all(os.path.exists(path) for path in paths):
            self._apt_get("download", *wanted)
        lost = [path for path in paths if not os.path.exists(path)]
        if lost or len(paths) < len(wanted):
            raise SystemExit(f"apt-get download did not bring all of {' '.join(wanted)}")
        return paths

    def _update(self) -> None:
        if not self._updated:
            self._apt_get("update")
            self._updated = True


def unpack(debs: Iterable[str], root: str, *members: str) -> None:
    """Unpack `debs` into the directory `root`; only `members` (tar patterns) where given."""
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as data:
            command = ["tar", "-x", "-C", root, "--no-same-owner", "--keep-directory-symlink"]
            if members:
                command += ["--wildcards", *members]
            done = subprocess.run(
                command, stdin=data.stdout, stderr=subprocess.PIPE, text=True, check=False
            )
        # The only complaint of tar to ignore: a package has nothing that fits `members`.
        if data.returncode or (done.returncode and not members):
            raise SystemExit(f"cannot unpack {deb}: {done.stderr}")
