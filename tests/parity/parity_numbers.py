"""Numbers for the parity tests."""

import torch

from unnoise.rng import Rng, stream


def normal(*shape: int, seed: int = 0):
    return torch.randn(shape, generator=stream(seed, 78), dtype=torch.float64)


class OneStream(Rng):
    """The whole batch from one generator, as other libraries draw."""

    def __init__(self, batch: int, source: torch.Generator):
        super().__init__([()] * 0)
        self.batch, self.source = batch, source

    def __len__(self) -> int:
        return self.batch

    def normal(self, *event, dtype=torch.float64):
        return torch.randn(self.batch, *event, generator=self.source, dtype=torch.float64).to(dtype)
