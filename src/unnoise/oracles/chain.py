r"""What a chain of Gaussian reverse steps ends in, exactly: schedules and variances compare without a single sample.

    p(x_s) = int N(x_s; m(x_t), s(x_t)^2) p(x_t) dx_t,    p(x_1) the prior,

with m and s those of `Ancestral.law`, whatever denoiser is in it. For Gaussian data m is affine, and mean and variance say
all (`gaussian_output`); on the line, any density goes through on a grid (`density_output`). The last step, to data, draws
from its law too, as a likelihood supposes; a sampler shows that law's mean. The small variance is 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..denoisers.denoiser import Denoiser
from ..errors import UsageProblem
from ..laws import Normal
from ..processes.gaussian import Point
from ..samplers.ancestral import Ancestral


def _laws(
    denoiser: Denoiser, reverse: Ancestral, points: Sequence[Point], x: Tensor, last: Ancestral | None
) -> Iterator[Normal]:
    """p(x_s | x_t = x) of each step in turn."""
    for i, (t, s) in enumerate(pairwise(points)):
        guess = denoiser(x, t.over(x))
        chosen = reverse if last is None or i < len(points) - 2 else last
        law = chosen.law(denoiser.process, guess, x, t, s)
        assert isinstance(law, Normal)
        yield law


def _spread(law: Normal, x: Tensor) -> Tensor:
    return torch.as_tensor(law.std, dtype=torch.float64).expand(x.shape)


@torch.no_grad()
def gaussian_output(
    denoiser: Denoiser, reverse: Ancestral, points: Sequence[Point], event: Sequence[int], last: Ancestral | None = None
) -> Normal:
    """The law of x_0, a batch of one, where each element's guess is affine in that element of x_t and its variance constant:
    exact denoisers of Gaussian data, elementwise independent.

    `last` steps to data in place of `reverse`. Raises UsageProblem for guesses that are not affine.
    """
    prior = denoiser.process.prior((1, *event), points[0])
    mean = prior.mean[0].double()
    variance = torch.as_tensor(prior.std, dtype=torch.float64).expand(event) ** 2
    x = torch.stack([torch.full(tuple(event), float(v), dtype=torch.float64) for v in (0, 1, 2)])
    for law in _laws(denoiser, reverse, points, x, last):
        start, slope = law.mean[0], law.mean[1] - law.mean[0]
        if not torch.allclose(law.mean[2] - law.mean[1], slope, rtol=1e-8, atol=1e-10):
            raise UsageProblem("a guess here is not affine in x_t; only that of Gaussian data keeps the chain Gaussian")
        std = _spread(law, x)[0]
        mean, variance = start + slope * mean, slope**2 * variance + std**2
    return Normal(mean[None], variance.sqrt()[None])


@torch.no_grad()
def even_grid(
    denoiser: Denoiser,
    reverse: Ancestral,
    points: Sequence[Point],
    low: float,
    high: float,
    last: Ancestral | None = None,
) -> Tensor:
    """An even grid from `low` to `high` on which every step of a chain can be seen, for `density_output`: 481 points or
    more, float64. Raises UsageProblem for a chain with a step of no variance."""
    x = torch.linspace(low, high, 481, dtype=torch.float64)[:, None]
    least = min(_sight(law, x) for law in _laws(denoiser, reverse, points, x, last))
    if not least > 0:
        raise UsageProblem("a step of this chain has no variance, so its output no density; give a `last` that has one")
    return torch.linspace(low, high, max(481, math.ceil((high - low) / (0.6 * least)) + 1), dtype=torch.float64)


def _sight(law: Normal, x: Tensor) -> float:
    """The widest spacing of the grid x at which a step is seen: its std, less where the mean runs faster than x."""
    slope = (law.mean[1:] - law.mean[:-1]).abs() / (x[1] - x[0])
    return float((_spread(law, x)[1:] / slope.clamp(min=1)).min())


@torch.no_grad()
def density_output(
    denoiser: Denoiser, reverse: Ancestral, points: Sequence[Point], x: Tensor, last: Ancestral | None = None
) -> Tensor:
    """p(x_0), (n,), of a chain on the line at the even grid x (n,), float64.

    By sums over the grid, which err by 1e-8 or less on `even_grid`, where every step is wider than the spacing.
    Raises UsageProblem where one is. `last` as above.
    """
    spacing = float(x[1] - x[0])
    p = denoiser.process.prior((len(x), 1), points[0]).log_prob(x[:, None]).exp()
    for law in _laws(denoiser, reverse, points, x[:, None], last):
        if (sight := _sight(law, x[:, None])) < spacing:
            raise UsageProblem(
                f"a step as narrow as {sight:.2g} is not seen on a grid of {spacing:.2g}; take more points"
            )
        std = _spread(law, x[:, None])
        z = (x - law.mean) / std
        p = (p / std[:, 0]) @ torch.exp(-0.5 * z * z) * (spacing / math.sqrt(2 * math.pi))
    return p


def divergence(p: Tensor, q: Tensor, x: Tensor) -> float:
    """KL(p || q) in nats of two densities on the even grid x."""
    inside = p > 0
    return float((p[inside] * (p[inside].log() - q[inside].log())).sum() * (x[1] - x[0]))
