"""Guidance: a denoiser in, a denoiser out. Composable, in the order they are given, with every sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Estimate
from ..processes import Gaussian
from ..scalars import column
from .denoiser import TOWARD, Cond, Denoiser

Guidance = Callable[[Denoiser], Denoiser]
Rule = Callable[[Denoiser, Tensor, Tensor, Cond], Estimate]


class Guided(Denoiser):
    """A denoiser whose guess is made by `rule(denoiser, xt, t, cond)`."""

    def __init__(self, denoiser: Denoiser, rule: Rule):
        super().__init__()
        self.denoiser, self.rule = denoiser, rule
        self.process, self.space, self.jumps = denoiser.process, denoiser.space, denoiser.jumps

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        return self.rule(self.denoiser, xt, t, cond)


def guided(denoiser: Denoiser, guidance: tuple[Guidance, ...] | list[Guidance]) -> Denoiser:
    """The denoiser with each guidance applied to it in turn."""
    for guide in guidance:
        denoiser = guide(denoiser)
    return denoiser


def needs_gaussian(denoiser: Denoiser, what: str) -> None:
    """Refuses, with a sentence, to guide by a score where there is none."""
    if not isinstance(denoiser.process, Gaussian):
        raise UsageProblem(
            f"{what} moves the score of a Gaussian process, and this model's process is {type(denoiser.process).__name__}"
        )


def _thresholded(estimate: Estimate, limit: Callable[[Tensor], Tensor]) -> Estimate:
    if not isinstance(estimate, Estimate):
        raise UsageProblem(
            f"this model guesses a {type(estimate).__name__} law, no image: there is no range to clip to; take --threshold none"
        )
    raw = estimate.mean if estimate.unclipped is None else estimate.unclipped
    pull = estimate.pull and estimate.pull._replace(estimate=_thresholded(estimate.pull.estimate, limit))
    return replace(estimate, mean=limit(estimate.mean), unclipped=raw, pull=pull)


def moved(estimate: Estimate, by: Tensor) -> Estimate:
    """The estimate with its mean, and that from before thresholding, moved. Of its variance nothing is known any more."""
    unclipped = None if estimate.unclipped is None else estimate.unclipped + by
    return replace(estimate, mean=estimate.mean + by, unclipped=unclipped, variance=None)


def clip(low: float = -1.0, high: float = 1.0) -> Guidance:
    """Clip the guess of x_0 to the range of the data (static thresholding)."""

    def rule(denoiser, xt, t, cond):
        return _thresholded(denoiser(xt, t, cond), lambda x0: x0.clamp(low, high))

    return lambda denoiser: Guided(denoiser, rule)


def dynamic_threshold(percentile: float = 99.5) -> Guidance:
    """Imagen's dynamic thresholding: clip to [-s, s] and divide by s, s = max(1, that percentile of |x_0| in the image)."""
    if not 0 < percentile <= 100:
        raise UsageProblem(f"the percentile of dynamic thresholding is {percentile}, but must lie in (0, 100]")

    def limit(x0):
        s = torch.quantile(x0.flatten(1).abs(), percentile / 100, dim=1).clamp(min=1)
        s = column(s, x0)
        return x0.clamp(-s, s) / s

    def rule(denoiser, xt, t, cond):
        return _thresholded(denoiser(xt, t, cond), limit)

    return lambda denoiser: Guided(denoiser, rule)


@overload
def drop(cond: None, mask: Tensor | None = None) -> None: ...
@overload
def drop(cond: Mapping[str, Tensor], mask: Tensor | None = None) -> dict[str, Tensor]: ...
def drop(cond: Cond, mask: Tensor | None = None) -> Cond:
    """Conditions replaced by the null condition, everywhere or where `mask` (batch,) is true: labels and numbers of words
    become -1, vectors of text NaN (see text/encoder.py)."""
    if cond is None:
        return None
    dropped = {}
    for name, value in cond.items():
        if name == TOWARD:  # where a jump goes is no hint that could be taken away
            dropped[name] = value
            continue
        if value.is_floating_point() and name != "text":
            raise UsageProblem(f"the condition {name!r} has no null value, so it cannot be dropped for guidance")
        chosen = torch.ones(len(value), dtype=torch.bool, device=value.device) if mask is None else mask
        dropped[name] = torch.where(column(chosen, value), math.nan if value.is_floating_point() else -1, value)
    return dropped


def classifier_free(weight: float) -> Guidance:
    r"""Classifier-free guidance: unconditional + weight (conditional - unconditional) (2207.12598).

    weight = 1 is plainly conditional, 0 unconditional; the paper's w is weight - 1. Combined in x_0, which is the same as in
    eps, v or score, before any clipping. Both guesses come from one call of twice the batch; what else the estimate
    carries (learned variances) is the conditional one's.
    """

    def rule(denoiser, xt, t, cond):
        if cond is None:
            raise UsageProblem(
                "classifier-free guidance needs a condition to strengthen; give labels, or leave guidance out"
            )
        if weight == 1:
            return denoiser(xt, t, cond)
        null = drop(cond)
        if weight == 0:
            return denoiser(xt, t, null)
        both = {name: torch.cat([value, null[name]]) for name, value in cond.items()}
        estimate = denoiser(torch.cat([xt, xt]), torch.cat([t, t]), both)
        conditional, unconditional = estimate.mean.chunk(2)
        halves = {
            name: value.chunk(2)[0]
            for name in ("variance", "fraction")
            if (value := getattr(estimate, name)) is not None
        }
        return Estimate(unconditional + weight * (conditional - unconditional), **halves)

    return lambda denoiser: Guided(denoiser, rule)
