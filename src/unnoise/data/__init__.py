"""Real images in: built-in sets, fetched sets, folders, the Hugging Face hub.

from unnoise.data import load
train = load("fashion-mnist")                    # or "digits", "emoji-twitter", "mnist", "photos/", "hf:owner/name"
batch = train.batch([0, 1, 2])                   # batch.x: float32 (3, 1, 28, 28) in [-1, 1]; batch.label: (3,)
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..errors import unknown
from .builtin import BUILTIN
from .dataset import Batch, DataSet, Facts
from .encoded import Size, check_options, refit
from .fetch import available, get, read
from .fetched import FETCHED
from .levels import from_levels, to_levels, to_uint8
from .splits import SPLITS

__all__ = [
    "Batch",
    "DataSet",
    "Facts",
    "available",
    "from_levels",
    "get",
    "load",
    "to_levels",
    "to_uint8",
]


def load(name: str | Path, split: str = "train", *, size: Size | None = None, channels: int | None = None) -> DataSet:
    """A split, "train" or "held-out", of a data set.

    `name` is a built-in set, a fetched one, the path of a folder of images (see `unnoise.data.folder`), or
    "hf:owner/name" (see `unnoise.data.hub`). `size`, in pixels (an int for a square, or (height, width)): every image
    is scaled until it just covers that, and its centre cut out; needed when the images have different sizes.
    `channels`: 1 makes all images grey, 3 colour.

    Raises `UsageProblem` or `Problem`, in one sentence, when that cannot be had.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    name = os.fspath(name)
    if name.startswith("hf:"):
        from . import hub

        return hub.load(name, split, size=size, channels=channels)
    if name not in BUILTIN and name not in FETCHED:
        return _folder(name, split, size, channels)

    wanted, channels = check_options(size, channels)
    facts, rows = (
        (BUILTIN[name].facts, BUILTIN[name].read(split))
        if name in BUILTIN
        else (FETCHED[name].facts, read(name, split))
    )
    images, levels = rows.images, facts.levels
    if levels != 256 and wanted not in (None, tuple(images.shape[2:])):
        images, levels = to_uint8(images, levels), 256  # scaling makes values between the levels
    images = refit(images, wanted, channels)
    facts = replace(facts, shape=tuple(images.shape[1:]), levels=levels)
    return DataSet(facts, split, images, rows.labels, rows.captions, rows.names)


def _folder(name: str, split: str, size: Size | None, channels: int | None) -> DataSet:
    from . import folder

    if not Path(name).expanduser().exists() and os.sep not in name and not name.startswith((".", "~")):
        raise unknown("data set", name, ["hf:owner/name", "a folder of images", *BUILTIN, *FETCHED])
    return folder.load(name, split, size=size, channels=channels)
