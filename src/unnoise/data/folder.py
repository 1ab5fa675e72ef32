"""A folder of images as a data set.

Images are found in all sub-folders, in the order of their relative paths; names that begin with a dot are skipped, and
files that are not images by their ending are not looked at.

- Labels: the first sub-folder an image lies in, in alphabetical order, when there are two or more; an image that lies
  beside them has label -1 ("no label").
- Captions: the text of NAME.txt beside the image, white space collapsed; "" where there is none.
- Held out: the rows of the one folder among `HELD_OUT` at the top, if it stands beside a folder "train" (labels are
  then the folders below); else one in ten, chosen by the hash of the relative path (`splits.held_out`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import Problem
from .dataset import DataSet, Facts
from .encoded import SUFFIXES, Size, check_options, header, pixels, settle
from .pixels import Lazy
from .splits import held_out

HELD_OUT = ("held-out", "validation", "valid", "val", "dev", "test")  # the first that exists


def walk(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """Relative paths of the files of these endings below `root`; links are followed, each real folder once."""
    seen = set()

    def refuse(error: OSError):
        raise Problem(f"cannot read folder {error.filename}: {error.strerror}; change its permissions") from error

    for here, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        for file in files:
            if file.lower().endswith(suffixes) and not file.startswith("."):
                yield Path(os.path.relpath(os.path.join(here, file), root))


def caption(file: Path) -> str | None:
    """The text beside a file."""
    try:
        return " ".join(file.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace").split())
    except FileNotFoundError:
        return None


def _split(paths: list[Path]) -> tuple[np.ndarray, int, str]:
    """Which rows are held out, at which level of the path the labels are, and the rule in words."""
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    name = next((name for name in HELD_OUT if name in tops), None)
    if name and tops <= {"train", *HELD_OUT} and "train" in tops and all(len(p.parts) > 1 for p in paths):
        return np.array([path.parts[0] == name for path in paths]), 1, f"the folder {name}"
    keys = [path.as_posix() for path in paths]
    return held_out(keys), 0, "one in ten, by the sha256 of the relative path"


class Division(NamedTuple):
    """The files that belong to either split: whether each is held out, the rule in words, the folder that labels it, and the
    classes where there are two or more."""

    paths: list[Path]
    out: np.ndarray
    rule: str
    kinds: list[str | None]
    classes: tuple[str, ...] | None


def divide(paths: list[Path]) -> Division:
    """Splits and labels of relative paths."""
    out, level, rule = _split(paths)
    if level:  # other top folders ("test" beside "validation") belong to neither split
        keep = [out[i] or path.parts[0] == "train" for i, path in enumerate(paths)]
        paths, out = [p for p, k in zip(paths, keep, strict=True) if k], out[keep]
    kinds = [path.parts[level] if len(path.parts) > level + 1 else None for path in paths]
    classes = tuple(sorted({kind for kind in kinds if kind is not None}))
    return Division(paths, out, rule, kinds, classes if len(classes) > 1 else None)


def load(folder: str | Path, split: str, *, size: Size | None = None, channels: int | None = None) -> DataSet:
    """The images of a folder. Raises `Problem` or `UsageProblem` when it is missing, empty, or of mixed sizes."""
    wanted, channels = check_options(size, channels)
    root = Path(folder).expanduser()
    if not root.exists():
        raise Problem(f"there is no folder {root}; give the path of a folder of images")
    if not root.is_dir():
        raise Problem(f"{root} is a file; give the path of a folder of images")
    paths = sorted(walk(root), key=lambda path: path.as_posix())
    if not paths:
        raise Problem(f"there is no image in {root} ({', '.join(SUFFIXES)} are looked for); put some there")

    paths, out, rule, kinds, classes = divide(paths)
    shape = settle(lambda: (header(root / p, str(root / p)) for p in paths), str(root), wanted, channels)

    texts = [caption(root / path) for path in paths]
    has_captions = any(text is not None for text in texts)

    rows = np.flatnonzero(out == (split == "held-out"))
    if not len(rows):
        raise Problem(f"{root} holds {len(paths)} image, too few to hold one out; add some")
    paths, kinds = [paths[i] for i in rows], [kinds[i] for i in rows]
    labels = torch.tensor([-1 if k is None else classes.index(k) for k in kinds]) if classes else None

    described = "\n".join(f"{p.as_posix()} {(root / p).stat().st_size}" for p in paths)
    facts = Facts(
        name=str(folder),
        shape=shape,
        train=int((~out).sum()),
        held_out=int(out.sum()),
        rule=rule,
        licence="as the owner of the folder says",
        source=str(root.resolve()),
        classes=classes,
        captions=has_captions,
    )
    return DataSet(
        facts,
        split,
        Lazy(len(paths), shape, lambda i: pixels(root / paths[i], str(root / paths[i]), shape[0], shape[1:])),
        labels,
        [texts[i] or "" for i in rows] if has_captions else None,
        [path.as_posix() for path in paths],
        hashlib.sha256(described.encode()).hexdigest(),
    )
