"""Images as every metric sees them: the 256 levels a file holds, so that a tensor and its PNG get the same score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageProblem

Images = Tensor | np.ndarray


def to_uint8(images: Images, name: str = "images") -> Tensor:
    """uint8 (N, C, H, W) from uint8, or from floats in [-1, 1], which are clipped and rounded to 256 levels.

    Raises UsageProblem for another shape or type, for an empty batch, and for numbers that are not finite.
    """
    images = torch.as_tensor(images).detach().cpu()
    if images.ndim != 4 or 0 in images.shape:
        raise UsageProblem(f"{name} must be (count, channel, height, width) and not empty, not {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise UsageProblem(f"{name} must be uint8, or floats in [-1, 1], not {images.dtype}")
    if not torch.isfinite(images).all():
        raise UsageProblem(f"{name} hold numbers that are not finite: the sampler diverged, or drop those images first")
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """float32 in [-1, 1] from uint8."""
    return images.float() / 127.5 - 1


def batches(images: Images, size: int = 125) -> Iterator[Tensor]:
    """float32 batches in [-1, 1]."""
    return (to_float(batch) for batch in to_uint8(images).split(size))


@torch.inference_mode()
def map_batches(function: Callable[[Tensor], Any], images: Images) -> Tensor:
    """`function` over batches of `images` in [-1, 1], its answers (batch, D) joined, float64 (N, D)."""
    answers = [torch.as_tensor(function(batch)).to("cpu", torch.float64) for batch in batches(images)]
    return torch.cat(answers).clone()
