"""Real data in: built-in sets, fetched sets, folders, files, the Hugging Face hub.

from unnoise.data import load
train = load("fashion-mnist")                    # or "digits", "emoji-twitter", "mnist", "photos/", "hf:owner/name"
batch = train.batch([0, 1, 2])                   # batch.x: float32 (3, 1, 28, 28) in [-1, 1]; batch.label: (3,)
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageProblem, unknown
from .builtin import BUILTIN
from .dataset import Batch, DataSet, Facts
from .encoded import SUFFIXES, Size, check_options, refit
from .fetch import available, get, read
from .fetched import FETCHED
from .levels import from_levels, to_levels, to_uint8
from .splits import SPLITS
from .text import AS_IT_IS
from .text import load as load_text

if TYPE_CHECKING:
    from torch import Tensor

    from ..kinds import About

__all__ = [
    "Batch",
    "DataSet",
    "Facts",
    "absolute",
    "available",
    "from_levels",
    "get",
    "held_out",
    "load",
    "load_like",
    "to_levels",
    "to_uint8",
]


def load(
    name: str | Path,
    split: str = "train",
    *,
    size: Size | None = None,
    channels: int | None = None,
    rate: int | None = None,
) -> DataSet:
    """A split, "train" or "held-out", of a data set.

    `name` is a built-in set, a fetched one, the path of a folder of images or sounds (see `unnoise.data.folder`, `.sound`), of a
    text (`.text`; "characters:PATH" for all its characters) or a table of points (`.points`, .csv), or "hf:owner/name"
    (see `unnoise.data.hub`). Of images, `size`, in pixels (an int for a square, or (height, width)): every image is scaled
    until it just covers that, and its centre cut out; needed when the images have different sizes.
    `channels`: 1 makes all images grey, 3 colour. Of texts and sounds, `size` is the length of a row; `rate`, in Hz: sounds are
    brought to it.

    Raises `UsageProblem` or `Problem`, in one sentence, when that cannot be had.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    name = os.fspath(name)
    if name.startswith("hf:"):
        from . import hub

        _only(name, rate=rate)
        return hub.load(name, split, size=size, channels=channels)
    if name.startswith(AS_IT_IS):
        _only(name, channels=channels, rate=rate)
        return load_text(name, split, size)
    if name not in BUILTIN and name not in FETCHED:
        return _folder(name, split, size, channels, rate)

    built_in = BUILTIN.get(name)
    if built_in is not None and built_in.open is not None:
        _only(name, channels=channels)
        if built_in.facts.kind == "sound":
            return built_in.open(split, size, rate)
        _only(name, rate=rate)
        return built_in.open(split, size)
    _only(name, rate=rate)
    wanted, channels = check_options(size, channels)
    if built_in is not None and built_in.read is not None:
        facts, rows = built_in.facts, built_in.read(split)
    else:
        facts, rows = FETCHED[name].facts, read(name, split)
    images, levels = rows.images, facts.levels
    if levels != 256 and wanted not in (None, tuple(images.shape[2:])):
        images, levels = to_uint8(images, levels), 256  # scaling makes values between the levels
    images = refit(images, wanted, channels)
    facts = replace(facts, shape=tuple(images.shape[1:]), levels=levels)
    return DataSet(facts, split, images, rows.labels, rows.captions, rows.names)


FILES = {".txt": "text", ".csv": "points"}
"""Which module reads a file of that suffix: `load(path, split, size)`; what is no image is read as text."""
SOUNDS = (".wav", ".flac", ".ogg")


def load_like(name: str | Path, about: About, split: str = "train") -> DataSet:
    """The data set in the shape that a model was made for (a `Spec`)."""
    if about.kind == "images":
        channels, height, width = about.shape
        return load(name, split, size=(height, width), channels=channels)
    return load(name, split, size=None if about.kind == "points" else about.shape[-1], rate=about.rate)


def absolute(name: str) -> str:
    """A folder or a file by its full path, so that a run can go on from elsewhere; the name of a set as it is."""
    from .text import AS_IT_IS

    if name.startswith(AS_IT_IS):
        return f"{AS_IT_IS}{absolute(name.removeprefix(AS_IT_IS))}"
    if name.startswith("hf:"):
        local = name.startswith(("hf:.", "hf:~"))
        return f"hf:{Path(name.removeprefix('hf:')).expanduser().absolute()}" if local else name
    path = Path(name).expanduser()
    return str(path.absolute()) if name not in (*BUILTIN, *FETCHED) and path.exists() else name


@lru_cache(maxsize=4)
def held_out(name: str | Path, about: About) -> Tensor:
    """All held-out rows of a set, as a model for `about` (a `Spec`) sees them."""
    data = load_like(name, about, "held-out")
    return data.batch(range(len(data))).x


def _only(name: str, channels: int | None = None, rate: int | None = None) -> None:
    """Refuses options of another kind of data."""
    for option, value, kind in (("channels", channels, "images"), ("rate", rate, "sounds")):
        if value is not None:
            raise UsageProblem(f"--{option} is for {kind}, and {name} holds none; leave it out")


def _folder(name: str, split: str, size: Size | None, channels: int | None, rate: int | None) -> DataSet:
    from . import folder, sound

    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    module = FILES.get(suffix, None if suffix in (*SUFFIXES, *SOUNDS) else "text") if path.is_file() else None
    if path.is_dir() and any(p.suffix.lower() in SOUNDS for p in path.rglob("*")):
        module = "sound"
    if module == "sound":
        _only(name, channels=channels)
        return sound.load(path, split, size, rate)
    if module is not None:
        _only(name, channels=channels, rate=rate)
        return importlib.import_module(f".{module}", __name__).load(path, split, size)
    if not Path(name).expanduser().exists() and os.sep not in name and not name.startswith((".", "~")):
        raise unknown(
            "data set",
            name,
            ["hf:owner/name", "a folder of images or sounds", "FILE.txt", "FILE.csv", *BUILTIN, *FETCHED],
        )
    if suffix in FILES and not path.exists():
        raise UsageProblem(f"there is no file {name}; give the path of a text or of a table of points")
    _only(name, rate=rate)
    return folder.load(name, split, size=size, channels=channels)
