"""The whole search: a fine walk to compare with, the family, then levels and coefficients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from ..errors import Diverged, UsageProblem
from ..model import Model
from ..processes import Gaussian
from ..recipe import Sampling
from ..rng import Rng
from ..runtime import default_device
from . import family as families
from . import fit as fits
from .kept import Tuned
from .latents import Heard, Latents

FIRST_SEED = 1 << 30
"""Of the latents: far from the seeds that people sample with, so that what is tuned is not seen again."""

REFERENCE = 200
"""Evaluations of the fine walk, or 8 times those tuned for, if that is more."""


def search(
    latents: Latents, evaluations: int, scale: float, fitted: int | None = None
) -> tuple[Sampling, float, Sampling, float]:
    """The best of the family, and the best after fitting, each with its error on latents that the fit does not see.

    `latents` know their ends; three of four, or the first `fitted` of them, are fitted to, the rest judge.
    """
    count = fitted or len(latents) * 3 // 4
    seen, unseen = latents.rows(slice(count)), latents.rows(slice(count, None))
    found = families.screened(seen, families.family(evaluations, scale))
    error, best = min(((unseen.error(sampling), sampling) for _, sampling in found), key=lambda pair: pair[0])
    if math.isinf(error):
        raise Diverged("every sampler of the family diverged on this model; train it further before tuning")
    tables = [sampling for _, sampling in found if sampling.step.evaluations(2) == 2]
    if not tables:
        return best, error, best, error
    lower, sampling = fits.fit(seen, unseen, tables[0], scale)
    return best, error, *((sampling, lower) if lower < error else (best, error))


def tune(
    model: Model,
    evaluations: int,
    *,
    guidance: float | None = None,
    threshold: str | None = None,
    classifier: float | None = None,
    latents: int = 200,
    heard: Heard = lambda n: None,
) -> Tuned:
    """Search grid and solver for `model` and a number of evaluations of its denoiser, in float32.

    What is approximated is the probability flow from the same noise, with the guidance and the thresholding of the model's
    own sampling unless they are given. Raises UsageProblem where there is no such flow.
    """
    own = model.recipe.sampling().changed(guidance=guidance, threshold=threshold, classifier=classifier)
    process = model.denoiser.process
    if evaluations < 1:
        raise UsageProblem(f"a sampler needs 1 evaluation or more, not {evaluations}")
    if latents < 16:
        raise UsageProblem(f"tuning needs 16 latents or more, not {latents}")
    if not isinstance(process, Gaussian) or isinstance(process.point(0.5).alpha, torch.Tensor):
        raise UsageProblem(
            "only a Gaussian process with one noise level has a flow to tune for, and this model's has not; use its own sampler"
        )
    begin = bundle(model, own, latents, heard)
    scale, fine = scale_of(model), max(REFERENCE, 8 * evaluations)
    begin.follow(fine, scale)
    count = fit_count(latents, begin.noise[0].numel())
    best, error, fitted, lower = search(begin, evaluations, scale, count)
    unseen = begin.rows(slice(count, None))
    errors = {"family": error, "tuned": lower}
    plain = own.within(evaluations)
    if plain is not None and plain.step.order is not None:  # a sampler that draws noise follows no flow
        mine = unseen.error(plain)
        errors = {"own": mine, **errors} if math.isfinite(mine) else errors
    how: dict[str, Any] = {
        "own": None if plain is None else plain.describe(),
        "family": best.describe(),
        "latents": {"fitted to": count, "judged by": latents - count},
        "reference": fine,
    }
    fitted = replace(own, step=fitted.step, grid=fitted.grid)
    return Tuned(evaluations, fitted, errors, dict(model.source or {}), how)


def bundle(
    model: Model, sampling: Sampling, count: int, heard: Heard = lambda n: None, first: int = FIRST_SEED
) -> Latents:
    """The latents of seeds `first`, `first` + 1, ..., with the classes in turn, under the guidance of a sampling."""
    device, seeds = default_device(), range(first, first + count)
    denoiser = model.guided(sampling).to(device).eval()
    cond, _ = model.asked(seeds)
    if cond is not None:
        cond = denoiser.space.told({name: value.to(device) for name, value in cond.items()})
    return Latents(
        denoiser, Rng.from_seeds(seeds, device).normal(*denoiser.space.shape(model.spec.shape)), cond, heard=heard
    )


def fit_count(latents: int, event: int) -> int:
    """How many of the latents are fitted to: of small data three of four, of images as many as hold two million numbers, 16 to
    64, which is plenty for some dozens of coefficients."""
    most = max(16, min(64, 2_000_000 // event)) if event > 100 else latents
    return min(latents * 3 // 4, most)


def scale_of(model: Model) -> float:
    """The standard deviation of what the process destroys: of the data, or of latents, which are scaled to 1."""
    return model.spec.std if model.denoiser.space.plain else 1.0


def work(model: Model, evaluations: int, latents: int = 200) -> int:
    """Guesses that `tune` makes, at most."""
    event = int(torch.Size(model.denoiser.space.shape(model.spec.shape)).numel())
    count, candidates = fit_count(latents, event), len(families.family(evaluations, scale_of(model)))
    total = latents * max(REFERENCE, 8 * evaluations)
    total += families.work(count, event, evaluations, candidates)
    total += (latents - count) * evaluations * 8
    return total + fits.work(count, latents - count, evaluations)
