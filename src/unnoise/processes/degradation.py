r"""Degradations: D(x, k) destroys an image in k steps, without noise (2208.09392). D(x, 0) = x; k is int64, (batch,).

Of some, a part is random: where the mask lies, how the snow falls. It is drawn once for an example, an image-shaped tensor
`along`, and stays as it is through all k; see `Cold` for who keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from ..rng import Rng
from ..scalars import column
from ..schedules import FromBetas, cosine_betas


class Degradation(nn.Module):
    """D(x, k, along), `steps` of which leave nothing to see.

    carries    whether `along` is a part of the state, for nothing else tells it.
    generates  whether the law of D(x, steps) is known without x, so that new images can be made from it.
    """

    carries: bool = False

    def __init__(self, steps: int):
        super().__init__()
        if steps < 1:
            raise UsageProblem(f"a degradation of {steps} steps does nothing; take 1 or more")
        self.steps = steps

    @property
    def generates(self) -> bool:
        return False

    def draw(self, x: Tensor, rng: Rng) -> Tensor | None:
        """What is random in the degradation of these examples, of the shape of x; None where nothing is."""
        return None

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        """D(x, k)."""
        raise NotImplementedError

    def reread(self, xk: Tensor, x0: Tensor, k: Tensor, along: Tensor | None) -> Tensor | None:
        """What was random, as D(x_0, k) = x_k tells it where the state carries nothing."""
        return along

    def end(self, shape: Sequence[int], rng: Rng) -> tuple[Tensor, Tensor | None]:
        """A sample of D(x, steps), and `along`. Raises UsageProblem where it depends on x."""
        raise UsageProblem(
            f"{type(self).__name__.lower()} as set leaves much of each image to the end, so the model restores and does "
            "not make images; give sample() degraded ones as `start`"
        )


class Colours(nn.Module):
    r"""Images of one colour each, from a Gaussian fitted to the mean colours of data: the end of blur and of pixelation.

    start     the mean (C) and, after it, the rows of a matrix (C, C) by which standard normal numbers are multiplied.
    symmetry  standard deviation of the noise that makes pixels differ; without it a network that treats all places alike
              can only paint textures.
    """

    def __init__(self, start: Sequence[float], symmetry: float = 0.002):
        super().__init__()
        self.start, self.symmetry = tuple(start), symmetry

    @classmethod
    def fit(cls, x: Tensor) -> tuple[float, ...]:
        """`start` from images (n, C, H, W)."""
        colours = x.double().mean((2, 3))
        covariance = torch.cov(colours.T, correction=0).reshape(x.shape[1], x.shape[1])
        factor = torch.linalg.cholesky(covariance + 1e-10 * torch.eye(x.shape[1], dtype=torch.float64))
        return tuple(round(v, 6) for v in (*colours.mean(0).tolist(), *factor.flatten().tolist()))

    def sample(self, shape: Sequence[int], rng: Rng) -> Tensor:
        channels = shape[1]
        if len(self.start) != channels * (channels + 1):
            raise UsageProblem("the colours that images begin with are left to the data; train it, or give `start`")
        numbers = torch.tensor(self.start, device=rng.device)
        mean, factor = numbers[:channels], numbers[channels:].reshape(channels, channels)
        colours = mean + rng.normal(channels) @ factor.T
        return colours[:, :, None, None] + self.symmetry * rng.normal(*shape[1:])


class Blur(Degradation):
    r"""x_k = G_k * ... * G_1 * x_0, each G_i a Gaussian on `kernel` x `kernel` pixels, with circular borders.

    Width of G_i, i = 0, 1, ...: constant `std`; incremental std (i + 1); exponential e^{std i}; special i/100 + 0.35.
    With `colours` the last step leaves the mean colour alone. Composed exactly, as a product in the Fourier basis.
    """

    def __init__(
        self,
        steps: int,
        kernel: int = 11,
        std: float = 1.0,
        routine: Literal["constant", "incremental", "exponential", "special"] = "constant",
        colours: Colours | None = None,
    ):
        super().__init__(steps)
        self.kernel, self.colours = kernel, colours
        widths = {
            "constant": lambda i: std,
            "incremental": lambda i: std * (i + 1),
            "exponential": lambda i: math.exp(std * i),
            "special": lambda i: i / 100 + 0.35,
        }
        self.widths = [widths[routine](i) for i in range(steps)]
        self._spectra: dict[tuple[int, int], Tensor] = {}

    @property
    def generates(self) -> bool:
        return self.colours is not None

    def taps(self, i: int) -> Tensor:
        """The one-dimensional kernel of step i, float64; the two-dimensional one is its outer square."""
        place = torch.arange(self.kernel, dtype=torch.float64, device="cpu") - (self.kernel - 1) / 2
        weights = torch.exp(-0.5 * (place / self.widths[i]) ** 2)
        return weights / weights.sum()

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """What each frequency is multiplied by after k steps, float64 (steps + 1, H, W // 2 + 1)."""
        if size not in self._spectra:
            place = torch.arange(self.kernel, dtype=torch.float64, device="cpu") - self.kernel // 2
            rows, columns = (
                2 * math.pi * torch.arange(n, dtype=torch.float64, device="cpu")[:, None] / n * place for n in size
            )
            total = torch.ones(self.steps + 1, size[0], size[1] // 2 + 1, dtype=torch.float64, device="cpu")
            for i in range(self.steps):
                down, across = rows.cos() @ self.taps(i), (columns.cos() @ self.taps(i))[: size[1] // 2 + 1]
                total[i + 1] = total[i] * down[:, None] * across
            if self.colours is not None:
                total[-1] = 0
                total[-1, 0, 0] = 1
            self._spectra[size] = total
        return self._spectra[size]

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        spectrum = self.spectrum((height, width)).to(x).to(x.device)[k.to(x.device)]
        blurred = torch.fft.irfft2(torch.fft.rfft2(x) * spectrum[:, None], s=(height, width))
        return torch.where(column(k.to(x.device) > 0, x), blurred, x)

    def end(self, shape: Sequence[int], rng: Rng) -> tuple[Tensor, Tensor | None]:
        if self.colours is None:
            return super().end(shape, rng)
        return self.colours.sample(shape, rng), None


class Pixelation(Degradation):
    """The mean of blocks of `factors[k - 1]` pixels, each factor dividing the next: projections, one inside the other.

    With `colours` the last block is the whole image.
    """

    def __init__(self, factors: Sequence[int] = (2, 4, 8), colours: Colours | None = None):
        super().__init__(len(factors) + (colours is not None))
        if any(b % a for a, b in zip((1, *factors), factors, strict=False)):
            raise UsageProblem(f"the factors {tuple(factors)} of a pixelation must each divide the next")
        self.factors, self.colours = tuple(factors), colours

    @property
    def generates(self) -> bool:
        return self.colours is not None

    def coarse(self, x: Tensor, k: int) -> Tensor:
        """The blocks' means after k >= 1 steps, an image for itself."""
        if k > len(self.factors):
            return x.mean((2, 3), keepdim=True)
        factor = self.factors[k - 1]
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise UsageProblem(
                f"an image of {x.shape[-2]}x{x.shape[-1]} has no blocks of {factor} pixels; choose factors that divide it"
            )
        return F.avg_pool2d(x, factor)

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        out, k = x, column(k.to(x.device), x)
        for step in range(1, self.steps + 1):
            if bool((k == step).any()):
                out = torch.where(k == step, F.interpolate(self.coarse(x, step), x.shape[-2:], mode="nearest"), out)
        return out

    def end(self, shape: Sequence[int], rng: Rng) -> tuple[Tensor, Tensor | None]:
        if self.colours is None:
            return super().end(shape, rng)
        return self.colours.sample(shape, rng), None


class Mask(Degradation):
    r"""x_k = x_0 prod_{i < k} (1 - exp(-r^2 / (2 s_i^2))), s_i = std (i + first), r the distance from a centre, in pixels.

    The centre is the image's, or (`random`) anywhere, which the state then carries as its map of r^2.
    """

    carries = True

    def __init__(self, steps: int, std: float = 0.1, first: int = 1, random: bool = True):
        super().__init__(steps)
        self.std, self.first, self.random = std, first, random

    def draw(self, x: Tensor, rng: Rng) -> Tensor:
        size = torch.tensor(x.shape[-2:])
        centre = (rng.uniform(2).cpu() * size).floor() if self.random else ((size - 1) / 2).expand(len(x), 2)
        rows, columns = ((torch.arange(int(n)) - centre[:, i, None]).square() for i, n in enumerate(size))
        return (rows[:, None, :, None] + columns[:, None, None]).to(x).expand_as(x)

    def keeps(self, k: Tensor, along: Tensor) -> Tensor:
        """The factor on each pixel after k steps."""
        left = torch.ones_like(along)
        for i in range(int(k.max()) if len(k) else 0):
            step = -torch.expm1(-along / (2 * (self.std * (i + self.first)) ** 2))
            left = torch.where(column(k > i, along), left * step, left)
        return left

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        assert along is not None
        return x * self.keeps(k.to(x.device), along.to(x))


class Snow(Degradation):
    """Snow-like: flakes of an own layer fall as k grows, and what is below them whitens; clipped to [-1, 1].

    level    how dense the layer is, 0 to 1.
    motion   length of the streaks in pixels.
    whiten   share of the whitening at the end.
    """

    carries = True

    def __init__(self, steps: int, level: float = 0.5, motion: int = 3, whiten: float = 0.3):
        super().__init__(steps)
        self.level, self.motion, self.whiten = level, motion, whiten

    def draw(self, x: Tensor, rng: Rng) -> Tensor:
        flakes = rng.normal(1, *x.shape[-2:]) * 0.3 + 0.35 + 0.4 * self.level
        flakes = torch.where(flakes > 0.8, flakes.clamp(max=1), 0.0)
        slant = torch.where(rng.bernoulli(0.5), 1, -1)
        streaks = torch.zeros_like(flakes)
        for i in range(self.motion):
            left, right = (flakes.roll((i, side * i), (-2, -1)) for side in (1, -1))
            streaks = streaks + torch.where(column(slant > 0, flakes), left, right)
        return (2 * streaks / self.motion).clamp(0, 1).to(x).expand_as(x)

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        assert along is not None
        fallen = column(k.to(x) / self.steps, x)
        bright = (x + 1) / 2
        grey = bright.mean(1, keepdim=True)
        white = torch.maximum(bright, (0.5 + grey).clamp(max=1))
        snowy = bright + fallen * (self.whiten * (white - bright) + along.to(x))
        return torch.where(fallen > 0, (2 * snowy - 1).clamp(-1, 1), x)


Others = Callable[[tuple[int, ...]], Tensor]
"""Images (n, channels, height, width) in [-1, 1], n of any number, of the shape that is asked for."""


class Animorphosis(Degradation):
    r"""x_k = sqrt(abar_k) x_0 + sqrt(1 - abar_k) z, z a random image of another kind (`others`), abar the cosine schedule's.

    Without `others` z is Gaussian noise, and the improved sampler is DDIM. z is what x_k and the guess of x_0 say, or, if
    `fixed`, the one that the walk began with.
    """

    def __init__(self, steps: int, others: Others | None = None, fixed: bool = False):
        super().__init__(steps)
        self.others, self.carries = others, fixed
        self.schedule = FromBetas(cosine_betas(steps))

    @property
    def generates(self) -> bool:
        return True

    def draw(self, x: Tensor, rng: Rng) -> Tensor:
        if self.others is None:
            return rng.normal_like(x)
        bank = self.others(tuple(x.shape[1:]))
        return bank[rng.integers(len(bank)).to(bank.device)].to(x)

    def mix(self, k: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_k) and sqrt(1 - abar_k), float64."""
        t = k.to(like.device).double() / self.steps
        return column(self.schedule.alpha(t), like), column(self.schedule.sigma(t), like)

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        assert along is not None
        alpha, sigma = self.mix(k, x)
        return alpha.to(x) * x + sigma.to(x) * along.to(x)

    def reread(self, xk: Tensor, x0: Tensor, k: Tensor, along: Tensor | None) -> Tensor:
        if along is not None:
            return along
        alpha, sigma = self.mix(k, xk)
        return (xk - alpha.to(xk) * x0) / sigma.clamp(min=1e-12).to(xk)

    def end(self, shape: Sequence[int], rng: Rng) -> tuple[Tensor, Tensor | None]:
        along = self.draw(torch.zeros(*shape, device=rng.device), rng)
        last = torch.full((shape[0],), self.steps)
        return self.mix(last, along)[1].to(along) * along, along
