"""An autoencoder of images, of the U-Net's blocks without time and without skips: latent diffusion's first stage (2112.10752)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from .norm import NormAct
from .options import Options
from .unet import Block, Down, Stage, UNetOptions, Up, width_of
from .unet import attention as attention_of


@dataclass(frozen=True)
class AutoencoderOptions(Options):
    """What kind of autoencoder. A level is a size, as in the U-Net; images shrink by `factor` = 2^(levels - 1)."""

    channels: int = 32
    """Width at multiplier 1."""
    mult: tuple[float, ...] = (1, 2, 2)
    """Width of each level, in multiples of `channels`."""
    blocks: int = 1
    """Residual blocks per level on the way down; one more on the way up."""
    attention: tuple[int, ...] = ()
    """Where pixels attend to each other besides in the middle, as downsampling factors."""
    middle_attention: bool = True
    latent: int = 3
    """Channels of the latent image."""
    regularise: Literal["kl", "vq"] = "kl"
    """Latents are drawn from a normal law that is held to N(0, 1), or are the nearest of so many `codes`."""
    weight: float = 1e-6
    """Of that divergence, beside the error of the reconstruction summed over the image."""
    codes: int = 512
    """Vectors in the codebook."""
    legacy: bool = False
    """Whether the weight 1/4 is on the codebook's term instead of the commitment's, as published models have it."""
    groups: int = 32
    dropout: float = 0.0

    @property
    def factor(self) -> int:
        return 2 ** (len(self.mult) - 1)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latents of images (channels, height, width). Raises UsageProblem for sizes that do not divide."""
        _, height, width = shape
        if height % self.factor or width % self.factor:
            raise UsageProblem(
                f"images of {height}x{width} do not divide by {self.factor}, as this autoencoder halves them; choose another --size"
            )
        return self.latent, height // self.factor, width // self.factor

    def build(self, channels: int) -> Autoencoder:
        """The network for images of so many channels, freshly initialised."""
        return Autoencoder(self, channels)


class Autoencoder(nn.Module):
    """`encode(x) -> h` and `decode(z) -> x`, images of values around [-1, 1].

    h has `latent` channels, twice as many for "kl" (mean and log variance); z has `latent`. (height, width) / factor.
    """

    def __init__(self, options: AutoencoderOptions, channels: int):
        super().__init__()
        o = self.options = options
        # the U-Net's options that make its parts those of an autoencoder
        u = UNetOptions(
            o.channels, o.mult, o.blocks, o.attention, o.middle_attention, conditioning="none", resample="conv-right",
            groups=o.groups, eps=1e-6, dropout=o.dropout,
        )  # fmt: skip
        widths = [width_of(u, m) for m in o.mult]
        attends = [2**level in o.attention for level in range(len(widths))]

        def stage(inputs: int, outputs: int, attend: bool = False) -> Stage:
            return Stage(Block(u, inputs, outputs), attention_of(u, outputs) if attend else None)

        def middle(c: int) -> list[nn.Module]:
            return [stage(c, c, o.middle_attention), stage(c, c)]

        c, top = o.channels, widths[-1]
        h = o.latent * (2 if o.regularise == "kl" else 1)
        down: list[nn.Module] = [nn.Conv2d(channels, c, 3, padding=1)]
        for level, width in enumerate(widths):
            down += [Down(c, c, right=True)] if level else []
            for _ in range(o.blocks):
                down.append(stage(c, width, attends[level]))
                c = width
        down += [*middle(top), NormAct(top, u.groups, u.eps), nn.Conv2d(top, h, 3, padding=1), nn.Conv2d(h, h, 1)]
        self.down = nn.Sequential(*down)

        c = top
        up: list[nn.Module] = [nn.Conv2d(o.latent, o.latent, 1), nn.Conv2d(o.latent, c, 3, padding=1), *middle(c)]
        for level in reversed(range(len(widths))):
            for _ in range(o.blocks + 1):
                up.append(stage(c, widths[level], attends[level]))
                c = widths[level]
            up += [Up(c)] if level else []
        up += [NormAct(c, u.groups, u.eps), nn.Conv2d(c, channels, 3, padding=1)]
        self.up = nn.Sequential(*up)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def last(self) -> nn.Parameter:
        """The weight of the decoder's last layer."""
        return self.up[-1].weight  # type: ignore[return-value]

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x.contiguous(memory_format=torch.channels_last))

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z.contiguous(memory_format=torch.channels_last))
