"""The weight of a second loss that makes it pull at one layer as hard as the first does (VQ-GAN, 2012.09841; CTM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-4
"""Added to the second loss's pull, so that the weight stays finite where there is none."""


def balance(first: Tensor, second: Tensor, layer: nn.Parameter, least: float = 0.0, most: float = 1e4) -> Tensor:
    """|d mean(first)/d layer| / (|d mean(second)/d layer| + 1e-4), from `least` to `most`; 1 where no gradients are taken.

    Of this process's micro-batch: with several the weights differ a little.
    """
    if not (first.requires_grad and second.requires_grad and layer.requires_grad):
        return torch.ones((), dtype=first.dtype, device=first.device)
    pulls = [torch.autograd.grad(loss.mean(), layer, retain_graph=True)[0].norm() for loss in (first, second)]
    return (pulls[0] / (pulls[1] + EPS)).clamp(least, most).detach()
