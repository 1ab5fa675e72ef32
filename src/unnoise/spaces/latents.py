r"""The latents of an autoencoder, scaled: z = s sample(q(h | x)), x = decoder(settled(z / s)) (latent diffusion, 2112.10752).

kl   q = N(mean, variance), held to N(0, 1) by its divergence from it; nothing is settled
vq   q a point; settled to the nearest codes: the codebook is the first layer of the decoder
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..laws import Dirac, Law, Normal
from ..networks.autoencoder import AutoencoderOptions
from ..networks.quantiser import VectorQuantiser
from ..rng import Rng
from .space import Space

NARROW = -6.0
"""The log variance of latents before training."""


class Latents(Space):
    """An autoencoder with its regulariser and the `scale` s, 1 until it is measured. `freeze` ends its training."""

    plain = False
    scale: Tensor

    def __init__(self, options: AutoencoderOptions, channels: int):
        super().__init__()
        o = self.options = options
        self.autoencoder = o.build(channels)
        vq = o.regularise == "vq"
        self.quantiser = VectorQuantiser(o.codes, o.latent, legacy=o.legacy) if vq else None
        self.frozen = False
        self.register_buffer("scale", torch.ones(()))
        if not vq:
            # at first the law is narrow: where its noise drowns what the encoder says, the decoder learns not to listen
            nn.init.constant_(self.autoencoder.down[-1].bias[o.latent :], NARROW)  # type: ignore[index]

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        return self.options.latent_shape(data)

    def law(self, x: Tensor) -> Law:
        """q(h | x), in float32, before scaling."""
        h = self.autoencoder.encode(x).to(torch.promote_types(torch.float32, x.dtype))
        return Dirac(h) if self.quantiser is not None else posterior(h)

    def settled(self, h: Tensor) -> Tensor:
        return h if self.quantiser is None else self.quantiser(h)

    def penalty(self, law: Law, numbers: int) -> Tensor:
        """(batch,): the weighted divergence, in nats for each of the data's numbers, or the quantiser's penalty."""
        if self.quantiser is not None:
            return self.quantiser.penalty(law.mean)
        normal = Normal(torch.zeros_like(law.mean), 1.0)
        return self.options.weight * law.kl(normal).to(law.mean.dtype) / numbers

    def told(self, cond: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
        if cond is None or "picture" not in cond:
            return cond
        with torch.no_grad():
            return {**cond, "picture": self.scale * self.law(cond["picture"]).mean}

    def encode(self, x: Tensor, rng: Rng) -> Tensor:
        return self.scale * self.law(x).sample(rng)

    def decode(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(self.settled(z / self.scale)).to(z.dtype)

    def measure(self, x: Tensor, rng: Rng) -> None:
        """Set the scale so that the latents of x have standard deviation 1; a quantiser's stay as they are."""
        self.scale.fill_(1.0)
        if self.quantiser is None:
            with torch.no_grad():
                self.scale.copy_(1 / self.encode(x, rng).double().std())

    def freeze(self) -> Latents:
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Latents:
        return super().train(mode and not self.frozen)


def posterior(h: Tensor) -> Normal:
    """The law whose mean is the first half of the channels, and whose log variance the second, within [-30, 20]."""
    mean, log_variance = h.chunk(2, dim=1)
    return Normal(mean, (0.5 * log_variance.clamp(-30, 20)).exp())
