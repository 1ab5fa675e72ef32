"""Data, processes and random numbers for the tests of likelihoods."""

import torch

from unnoise import schedules as S
from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.rng import Rng

SCHEDULES = {
    "linear betas": S.FromBetas(S.linear_betas(1000)),
    "linear VP": S.LinearVP(),
    "sub-VP": S.SubVP(),
    "cosine": S.Cosine(),
    "VE": S.VE(),
    "EDM": S.EDM(),
    "rectified": S.Rectified(),
    "learned": S.Learned(-12.0, 13.3, units=16).requires_grad_(False),
}


def process(name: str) -> Gaussian:
    return Gaussian(SCHEDULES[name])


def mixture() -> Mixture:
    """Three components in the plane, two classes."""
    means = torch.tensor([[-0.7, 0.1], [0.6, 0.5], [0.2, -0.8]], dtype=torch.float64)
    variances = torch.tensor([[0.15, 0.2], [0.1, 0.25], [0.2, 0.1]], dtype=torch.float64)
    return Mixture(means, variances, torch.tensor([0.5, 0.3, 0.2]), labels=torch.tensor([0, 1, 1]))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class FourPoints(Rng):
    """Noise of +-1 and offsets in the middle: with data of +-std, exact expectations and the midpoint rule."""

    def __init__(self, draws: int = 1):
        super().__init__([])
        self.draws = draws

    def __len__(self):
        return 4

    def normal(self, *event, dtype=torch.float64):
        return torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=dtype)[:, None].expand(4, *event)

    def uniform(self, *event, dtype=torch.float64):
        return torch.full((4, *event), 0.5 / self.draws, dtype=dtype)
