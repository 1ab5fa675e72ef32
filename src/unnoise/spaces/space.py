"""What every space offers. This one is that of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import UsageProblem
from ..rng import Rng


class Space(nn.Module):
    """Where a process runs: z = encode(x), x = decode(z). A denoiser carries its space, and its weights are kept with it.

    Here z = x. `plain` says so: bounds, likelihoods and measurements of the data mean nothing elsewhere.
    """

    plain: bool = True

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the codes of data of a shape."""
        return data

    def told(self, cond: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
        """Conditions as a network is told them here: a picture among them, cond["picture"] (batch, *data), as it is in this
        space, without any chance."""
        return cond

    def encode(self, x: Tensor, rng: Rng) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z


def in_data(denoiser: Any, what: str) -> None:
    """Refuses, with a sentence, what is meant of data where the process runs in another space."""
    if not denoiser.space.plain:
        raise UsageProblem(
            f"{what} is of data, and this model's process runs in the latents of an autoencoder; leave it out"
        )
