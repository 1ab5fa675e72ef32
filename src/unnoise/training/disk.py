"""Writing so that a reader, or a killed process, never sees half a file."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from ..errors import Problem


@contextmanager
def disk_errors(what: str, remedy: str = "free some space or choose another folder, then resume"):
    """Turn an error of the disk into a sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or re.sub(r".*: (.*) \(os error \d+\)", r"\1", str(error))
        raise Problem(f"{what} could not be written ({cause}); {remedy}") from error


def sync(path: Path) -> None:
    """Ask the system to bring a file, or the names in a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by `data`, whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def new_folder(path: Path):
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
    """Remove what an interrupted `new_folder`, `write_file` or `remove_folder` left in a folder."""
    for end in ("part", "old", "gone"):
        for leftover in folder.glob(f".*.{end}"):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
