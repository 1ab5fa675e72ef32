"""Writing so that a reader, or a killed process, never sees half a file: aside in the same folder, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import Problem

_umask = os.umask(0)  # can only be read by setting it
os.umask(_umask)


def _refusals() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError  # its name for a full disk

    return OSError, SafetensorError


@contextmanager
def disk_errors(what: str, remedy: str = "free some space or choose another folder") -> Iterator[None]:
    """Turn an error of the disk into a sentence."""
    try:
        yield
    except _refusals() as error:
        cause = getattr(error, "strerror", None) or re.sub(r".*: (.*) \(os error \d+\)", r"\1", str(error))
        raise Problem(f"{what} could not be written ({cause}); {remedy}") from error


def sync(path: Path) -> None:
    """Ask the system to bring a file, or the names in a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _aside(path: Path, durable: bool) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".part{path.suffix}", dir=path.parent)
    os.close(number)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask)  # mkstemp's files are private; pictures are not
        if durable:
            sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path`, of the same ending, to write to; when the block ends well, it becomes `path` in one rename.

    Missing parent folders are made. Raises `Problem` when the folder cannot be written or the disk is full; then, and
    on any other error or interrupt, what was written aside is removed and `path` is as it was before.
    """
    with disk_errors(str(path)), _aside(Path(path), durable=False) as part:
        yield part


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by `data`, whole or not at all, on the disk itself when this returns. Raises OSError: see `disk_errors`."""
    with _aside(path, durable=True) as part:
        part.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or not at all. Raises `Problem` where the disk refuses."""
    with disk_errors(str(path)):
        write_file(path, (json.dumps(value, indent=1) + "\n").encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `path`, and the place of what was there, when all is on the disk."""
    aside, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in aside.iterdir():
            sync(file)
        sync(aside)
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder; its name goes first, so that nobody takes the rest for the whole."""
    gone = path.with_name(f".{path.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left of a writing or a removal in a folder."""
    for pattern in (".*.part", ".*.part.*", ".*.old", ".*.gone"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
