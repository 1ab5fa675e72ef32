"""What solvers are compared on: exact denoisers, and a network that this project trains; noise, and where its flow ends.

Every work has x = x_0 + sigma eps. Latents are split: on the first ones each library's best is chosen, on the others it is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unnoise.denoisers import Denoiser
from unnoise.laws import Estimate
from unnoise.oracles import Mixture
from unnoise.papers.edm import EDM as Recipe
from unnoise.processes import Gaussian
from unnoise.recipe import Sampling
from unnoise.rng import Rng, stream
from unnoise.samplers import Adams, LogSNR
from unnoise.schedules import EDM
from unnoise.tuning.latents import Latents, rms
from unnoise.verify.lab import Lab

TOP, LOW = 80.0, 0.002
REFERENCE = 1000  # evaluations of the fine walk


@dataclass
class Work:
    """`few`: how many of the chosen-on latents the peers' solvers are tried on (all of them where that is cheap)."""

    name: str
    what: str  # the measure
    denoiser: Denoiser
    noise: Tensor
    chosen_on: int
    few: int
    scale: float
    measure: Callable[[Tensor, Tensor], float]
    cond: dict[str, Tensor] | None = None
    flow: Callable[[Tensor, float], Tensor] | None = None
    """The exact end of the flow from a noise at a level, where it is known."""
    ends: dict[str, Tensor] = field(default_factory=dict)

    def task(self, first: int, last: int) -> Task:
        return Task(self, first, last)

    @property
    def trial(self) -> Task:
        """What the peers' solvers are chosen on."""
        return self.task(0, self.few)

    @property
    def held_out(self) -> Task:
        return self.task(self.chosen_on, len(self.noise))

    def latents(self) -> Latents:
        """What ours are chosen and tuned on."""
        task, trial = self.task(0, self.chosen_on), self.trial
        end = torch.cat([trial.end(TOP), self.task(trial.last, task.last).end(TOP)]) if trial != task else task.end(TOP)
        return Latents(self.denoiser, task.noise, task.cond, end)


@dataclass(frozen=True)
class Task:
    """Some of the latents of a work."""

    work: Work
    first: int
    last: int

    @property
    def noise(self) -> Tensor:
        return self.work.noise[self.first : self.last]

    @property
    def cond(self) -> dict[str, Tensor] | None:
        return self.work.cond and {name: value[self.first : self.last] for name, value in self.work.cond.items()}

    def end(self, sigma: float) -> Tensor:
        """The end of the flow from sigma times the noise: exact, or by a walk of 1000 evaluations."""
        sigma = min(sigma, 1e5)
        key, ends = f"{sigma:.3f} {self.first} {self.last}", self.work.ends
        if self.work.flow is not None:
            return self.work.flow(self.noise, sigma)
        if key not in ends:
            walk = Sampling(Adams(3, "v", scale=self.work.scale), LogSNR(REFERENCE, LOW / 2, sigma))
            ends[key] = Latents(self.work.denoiser, self.noise, self.cond).walk(walk)
        return ends[key]

    def error(self, out: Tensor, sigma: float) -> float:
        """Of a walk that began at sigma times the noise."""
        found = self.work.measure(out, self.end(sigma))
        return found if math.isfinite(found) else math.inf

    def ours(self, sampling: Sampling) -> float:
        """The error of one of our samplers, which is to find the end of the flow from the top."""
        return self.error(Latents(self.work.denoiser, self.noise, self.cond).walk(sampling), TOP)

    def eps(self, x: Tensor, sigma: float) -> Tensor:
        """The guess of the noise in x = x_0 + sigma eps."""
        t = torch.full((len(x),), sigma / TOP, dtype=torch.float64)
        return (x - self.work.denoiser(x, t, self.cond).mean) / sigma


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(5), dtype=torch.float64)


def modes() -> Work:
    place = torch.rand(16, 2, generator=stream(16), dtype=torch.float64) * 2 - 1
    data = Mixture(place * 3**0.5, 0.02)
    return Work(
        "16 modes",
        "mean distance",
        data.denoiser(Gaussian(EDM(TOP))),
        _noise(512, 2),
        256,
        256,
        1.0,
        lambda out, end: float((out - end).norm(dim=1).mean()),
    )


def spectrum() -> Work:
    variance = torch.arange(1, 65, dtype=torch.float64) ** -1.5
    return Work(
        "gaussian",
        "relative root mean square",
        _Linear(variance),
        _noise(512, 64),
        256,
        256,
        float(variance.mean()) ** 0.5,
        lambda out, end: float(((out - end).square().mean() / end.square().mean()).sqrt()),
        flow=lambda noise, sigma: noise * sigma * (variance / (variance + sigma**2)).sqrt(),
    )


class _Linear(Denoiser):
    """The denoiser of N(0, variance), without the responsibilities of a mixture, which are costly."""

    def __init__(self, variance: Tensor):
        super().__init__()
        self.process, self.variance = Gaussian(EDM(TOP)), variance

    def forward(self, xt, t, cond=None):
        return Estimate(xt * self.variance / (self.variance + (t[:, None] * TOP) ** 2))


def digits() -> Work:
    """EDM on the 8x8 digits: 800 steps, class-conditional; 0.2 M parameters, in float32 with states in float64."""
    lab = Lab(Path("runs/verify"), seeds=(0,))
    model = lab.digits(Recipe, 0, steps=800, small=True)
    seeds = range(160)
    return Work(
        "network on digits",
        "mean root mean square of a picture in [-1, 1]",
        model.denoiser,
        Rng.from_seeds(seeds).normal(*model.spec.shape, dtype=torch.float64),
        96,
        24,
        model.spec.std,
        lambda out, end: float(rms(out - end).mean()),
        cond=model.labels(seeds),
    )


WORKS: dict[str, Callable[[], Work]] = {"16 modes": modes, "gaussian": spectrum, "network on digits": digits}
