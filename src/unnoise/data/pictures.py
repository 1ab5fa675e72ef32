"""Pictures for people: one image, a sheet of many, a short film. Every file is written whole or not at all.

Images are tensors (channel, height, width) with 1 or 3 channels, or (height, width): uint8 in 0..255, or floats in
[-1, 1], which are clamped and rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..disk import write_whole
from .levels import to_uint8


def to_pil(x: Tensor) -> Image.Image:
    """One image (1 or 3, height, width) or (height, width) as a PIL image, grey or RGB."""
    x = to_uint8(x.detach().cpu())
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ValueError(f"an image has shape (1 or 3, height, width), not {tuple(x.shape)}")
    array = x[0].numpy() if x.shape[0] == 1 else x.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def save_png(x: Tensor | Image.Image, path: str | Path) -> Path:
    """Write one image, a tensor or a PIL image, as PNG. Raises `Problem` when the place cannot be written."""
    image = x if isinstance(x, Image.Image) else to_pil(x)
    path = Path(path)
    with write_whole(path) as aside:
        image.save(aside, format="PNG")
    return path


def grid(x: Tensor, columns: int | None = None, scale: int | None = None, gap: int = 2) -> Image.Image:
    """A sheet of the images (batch, 1 or 3, height, width), row by row, on white, with white gaps of `gap` pixels.

    `columns` is ceil(sqrt(batch)) unless given. Each pixel becomes a `scale` x `scale` square; the default brings
    small images to about 64 pixels, so that they can be seen.
    """
    if x.ndim != 4 or not len(x):
        raise ValueError(f"a grid takes images of shape (batch >= 1, 1 or 3, height, width), not {tuple(x.shape)}")
    count, channels, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = scale or max(1, round(64 / max(height, width)))
    x = to_uint8(x.detach().cpu()).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    high, wide = height * scale + gap, width * scale + gap
    sheet = torch.full((channels, rows * high + gap, columns * wide + gap), 255, dtype=torch.uint8)
    for place, image in enumerate(x):
        top, left = gap + place // columns * high, gap + place % columns * wide
        sheet[:, top : top + height * scale, left : left + width * scale] = image
    return to_pil(sheet)


def save_gif(
    frames: Iterable[Tensor | Image.Image], path: str | Path, *, milliseconds: int = 80, rest: int = 1000
) -> Path:
    """Write a film that repeats for ever: each frame is an image, or a batch that is shown as a `grid`.

    Frames last `milliseconds` each, the last one `rest`. Raises `Problem` when the place cannot be written.
    """
    shown = [f if isinstance(f, Image.Image) else grid(f) if f.ndim == 4 else to_pil(f) for f in frames]
    if not shown:
        raise ValueError("a film needs at least one frame")
    path = Path(path)
    durations = [milliseconds] * (len(shown) - 1) + [rest]
    with write_whole(path) as aside:
        shown[0].save(aside, format="GIF", save_all=True, append_images=shown[1:], duration=durations, loop=0)
    return path
