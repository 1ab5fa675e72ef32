"""Images that were written before: a folder of samples, any folder of images of one size, or an .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import Problem, UsageProblem
from .encoded import SUFFIXES, header, pixels, settle


def read_images(path: str | Path, count: int | None = None) -> Tensor:
    """The images of a folder that `generate` made, of any folder of images of one size, or of an .npz file.

    uint8 (count, channel, height, width), the first `count` in the order of their seeds or names. An .npz file holds
    one array of uint8 images, (count, channel, height, width) or channels last. Raises Problem or UsageProblem.
    """
    path = Path(path)
    if path.is_file():
        return _npz_images(path)[:count]
    if not path.is_dir():
        raise UsageProblem(f"there is nothing at {path}; name a run, a folder of images, or an .npz file of images")
    shards = sorted((path / "shards").glob("[0-9]*.npz"))
    if shards:
        parts, have = [], 0
        for shard in shards:
            parts.append(_npz_images(shard))
            have += len(parts[-1])
            if count is not None and have >= count:
                break
        return torch.cat(parts)[:count]
    folder = path / "images" if (path / "sampling.json").exists() else path
    if (path / "sampling.json").exists() and not folder.is_dir():
        raise UsageProblem(f"{path} holds only a sheet of samples; sample with --format png or npz")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))[:count]
    if not files:
        raise Problem(f"there is no image in {folder}; name a run, a folder of images, or an .npz file of images")
    channels, height, width = settle(lambda: (header(p, str(p)) for p in files), str(folder), None, None)
    return torch.stack([torch.from_numpy(pixels(p, str(p), channels, (height, width)).copy()) for p in files])


def read_shards(folder: Path, array: str, count: int | None = None) -> Tensor:
    """The samples that `generate` wrote as .npz, of any kind, in the order of their seeds. Raises Problem where one is broken."""
    parts, have = [], 0
    for path in sorted((Path(folder) / "shards").glob("[0-9]*.npz")):
        arrays = read_arrays(path)
        if array not in arrays:
            raise Problem(f"{path} is broken; delete it, and sample again")
        parts.append(torch.from_numpy(arrays[array]))
        have += len(parts[-1])
        if count is not None and have >= count:
            break
    if not parts:
        raise Problem(f"there are no samples in {folder}; sample with --format npz")
    return torch.cat(parts)[:count]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; {} if it is broken or holds objects, which could execute code."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # zipfile and numpy have a dozen names for a damaged file
        return {}


def _npz_images(path: Path) -> Tensor:
    found = [a for a in read_arrays(path).values() if a.ndim == 4 and a.dtype == np.uint8]
    if len(found) != 1 or not len(found[0]):
        raise Problem(f"{path} cannot be read as an .npz file with one array of uint8 images (count, channel, h, w)")
    array = found[0]
    if array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1] not in (1, 3):
        raise Problem(f"the images of {path} have {array.shape[1]} channels, but 1 (grey) or 3 (colour) are read")
    return torch.from_numpy(np.ascontiguousarray(array))
