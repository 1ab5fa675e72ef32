"""What tests of several rooms look through: a sampler's linear map, and the order of a row of errors."""

import torch

from unnoise.rng import Rng
from unnoise.samplers import sample


class OneHot(Rng):
    """Row k of the batch is 1 at the k-th draw and 0 at all others: the columns of a sampler's linear map."""

    def __init__(self, batch: int, first: int):
        super().__init__([], (0,))
        self.batch, self.next = batch, first

    def normal(self, *event, dtype=torch.float64):
        out = torch.zeros(self.batch, *event, dtype=torch.float64)
        out[self.next] = 1
        self.next += 1
        return out.to(dtype)


def moments(denoiser, step, points: list, mean: float, variance: float, draws: int = 1) -> tuple[float, float]:
    """Mean and variance after sampling a scalar from N(mean, variance) with a denoiser that is affine in x_t: exactly.

    The sampler, of at most `draws` draws a step, is then affine in its start and in every draw: row 0 of the batch gives the
    constant, row 1 the slope in the start, row 2 + k the slope in draw k.
    """
    rows = 2 + draws * len(points)
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[1] = 1
    out = sample(denoiser, step, lambda _: points, start.shape, rng=OneHot(rows, 2), start=start, dtype=torch.float64)
    constant, slopes = out[0, 0], out[1:, 0] - out[0, 0]
    spread = slopes[0] ** 2 * variance + (slopes[1:] ** 2).sum()
    return float(constant + slopes[0] * mean), float(spread)


def slope(errors: list[float], steps: list[int]) -> float:
    """The order of convergence: the slope of log error against log step size, by least squares."""
    x, y = -torch.tensor(steps, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())
