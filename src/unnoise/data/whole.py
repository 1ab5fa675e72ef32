"""Files that are whole or absent: written aside in the same folder, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Problem

_umask = os.umask(0)  # can only be read by setting it
os.umask(_umask)


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; when the block ends well, it becomes `path` in one rename.

    Missing parent folders are made. Raises `Problem` when the folder cannot be written or the disk is full; then, and
    on any other error or interrupt, what was written aside is removed and `path` is as it was before.
    """
    path = Path(path)
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(number)
        aside = Path(name)
        yield aside
        aside.chmod(0o666 & ~_umask)  # mkstemp's files are private; pictures are not
        os.replace(aside, path)
    except OSError as error:
        raise Problem(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
