"""Distributions of the time at which an example is noised during training.

`sample(process, rng)` gives times (batch,), float64, and importance weights (batch,) that make the weighted loss an unbiased
estimate of the loss under the distribution the objective means.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..processes import Gaussian, Process
from ..rng import Rng


class Times(nn.Module):
    """A distribution over t. Most have weight 1: the distribution itself is what the objective means."""

    def sample(self, process: Process, rng: Rng) -> tuple[Tensor, Tensor]:
        t = self.draw(process, rng)
        return t, torch.ones_like(t)

    def draw(self, process: Process, rng: Rng) -> Tensor:
        raise NotImplementedError

    def density(self, process: Process, t: Tensor) -> Tensor:
        """Density over t of the distribution that the objective means, importance weights included: 1 where it is uniform."""
        return torch.ones_like(t)

    def drawn(self, process: Process, t: Tensor) -> Tensor:
        """Density over t of the times that are drawn: `density` where the importance weights are 1."""
        return self.density(process, t)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Told, after each step, which losses (batch,) were seen at which times."""


class Uniform(Times):
    """t uniform in [start, 1]."""

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.start = start

    def draw(self, process: Process, rng: Rng) -> Tensor:
        return self.start + (1 - self.start) * rng.uniform()

    def density(self, process: Process, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 / (1 - self.start))


class LogUniform(Times):
    """log t uniform between log start and 0: every octave of times is seen as often as every other."""

    def __init__(self, start: float = 1e-3):
        super().__init__()
        if not 0 < start < 1:
            raise UsageProblem(f"start is {start}, but must lie between 0 and 1")
        self.start = start

    def draw(self, process: Process, rng: Rng) -> Tensor:
        return self.start ** (1 - rng.uniform())

    def density(self, process: Process, t: Tensor) -> Tensor:
        return -1 / (t * math.log(self.start))


class UniformSteps(Times):
    """t = i / steps, i uniform in 1..steps: the discrete-time papers."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def draw(self, process: Process, rng: Rng) -> Tensor:
        return (rng.integers(self.steps) + 1).double() / self.steps


def evenly(rng: Rng) -> Tensor:
    """(u + i / n) mod 1 for the places i in the global batch of n, one u for all: uniform each, and even together."""
    u = torch.rand((), generator=rng.shared, dtype=torch.float64)
    places = torch.tensor(rng.positions, dtype=torch.float64)
    return ((u + places / rng.total) % 1.0).to(rng.device)


class Stratified(Times):
    r"""Low-discrepancy times, t_i = (u + i / n) mod 1 with one u for the n examples of the global batch (2107.00630, I.1).

    Each t is uniform, and the batch covers [0, 1] evenly. With `steps`, rounded up to i / steps.
    """

    def __init__(self, steps: int | None = None, start: float = 0.0):
        super().__init__()
        self.steps, self.start = steps, start

    def draw(self, process: Process, rng: Rng) -> Tensor:
        t = evenly(rng)
        if self.steps is not None:
            return (t * self.steps).floor().add(1).clamp(max=self.steps) / self.steps
        return self.start + (1 - self.start) * t

    def density(self, process: Process, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 if self.steps is not None else 1 / (1 - self.start))


class LogNormal(Times):
    """EDM's: ln(sigma / alpha) normal with mean p_mean and standard deviation p_std (2206.00364, table 1)."""

    def __init__(self, p_mean: float = -1.2, p_std: float = 1.2):
        super().__init__()
        self.p_mean, self.p_std = p_mean, p_std

    def draw(self, process: Gaussian, rng: Rng) -> Tensor:
        log_ratio = self.p_mean + self.p_std * rng.normal(dtype=torch.float64)
        return process.schedule.time(-2 * log_ratio).clamp(min=1e-12)

    def density(self, process: Gaussian, t: Tensor) -> Tensor:
        """N(ln(sigma/alpha); p_mean, p_std^2) d ln(sigma/alpha)/dt."""
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        dalpha, dsigma = process.schedule.derivatives(t)
        z = ((sigma / alpha).log() - self.p_mean) / self.p_std
        return torch.exp(-0.5 * z * z) / (self.p_std * math.sqrt(2 * math.pi)) * (dsigma / sigma - dalpha / alpha)


class HalfLogNormal(LogNormal):
    r"""CTM's: half of the times as EDM's, half on Karras's ramp of levels from sigma_max, its first `part` evenly (2310.02279).

    ramp(v) = (sigma_max^(1/rho) + v (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,  v uniform in [0, part]; sigma/alpha at most that
    at t = 1.
    """

    def __init__(
        self,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        part: float = 0.7,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
    ):
        super().__init__(p_mean, p_std)
        self.part, self.rho = part, rho
        self.ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)

    def draw(self, process: Gaussian, rng: Rng) -> Tensor:
        normal = super().draw(process, rng)
        top, low = self.ends
        level = (top + self.part * rng.uniform() * (low - top)) ** self.rho
        even = process.schedule.time(-2 * level.log())
        return torch.where(rng.bernoulli(0.5), normal, even).clamp(max=1.0)

    def density(self, process: Gaussian, t: Tensor) -> Tensor:
        """Half of each: on the ramp, |dv/dt| / part."""
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        dalpha, dsigma = process.schedule.derivatives(t)
        top, low = self.ends
        root = (sigma / alpha) ** (1 / self.rho)
        speed = root / self.rho * (dsigma / sigma - dalpha / alpha) / ((top - low) * self.part)
        inside = (root <= top) & (root >= top + self.part * (low - top))
        return (super().density(process, t) + torch.where(inside, speed, 0.0)) / 2


class LossSecondMoment(Times):
    r"""improved-ddpm's importance sampling: p_i ~ sqrt(mean of the last squared losses at step i) (2102.09672, sec. 3.3).

    Uniform until every step has `history` losses; then mixed with a uniform share `floor`. The weight is 1 / (steps p_i).
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, steps: int, history: int = 10, floor: float = 0.001):
        super().__init__()
        self.steps, self.floor = steps, floor
        self.register_buffer("losses", torch.zeros(steps, history, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.int64))

    @property
    def probabilities(self) -> Tensor:
        """p_i for i = 1..steps, summing to 1."""
        if int(self.counts.min()) < self.losses.shape[1]:
            return torch.full((self.steps,), 1 / self.steps, dtype=torch.float64, device=self.losses.device)
        size = self.losses.square().mean(1).sqrt()
        return (1 - self.floor) * size / size.sum() + self.floor / self.steps

    def sample(self, process: Process, rng: Rng) -> tuple[Tensor, Tensor]:
        p = self.probabilities
        u = rng.uniform().to(p.device)
        i = torch.searchsorted(p.cumsum(0) / p.sum(), u, right=True).clamp(max=self.steps - 1)
        return (i + 1).double() / self.steps, 1 / (self.steps * p[i])

    def drawn(self, process: Process, t: Tensor) -> Tensor:
        i = (t * self.steps).ceil().long().clamp(1, self.steps) - 1
        return self.steps * self.probabilities[i.to(self.losses.device)].to(t.device)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        history = self.losses.shape[1]
        for i, value in zip((t * self.steps).round().long().tolist(), loss.double().tolist(), strict=True):
            self.losses[i - 1, self.counts[i - 1] % history] = value  # a ring; the order within does not matter
            self.counts[i - 1] += 1


class Adaptive(Times):
    r"""Another distribution's loss, drawn where that loss is: p(lambda) ~ loss x density, so that what is averaged is flat.

    On `bins` equal parts of the log-SNR between the ends of the schedule (within [-20, 20]), the mean of the last losses,
    of which each visit forgets the fraction 1 - `keep`; mixed with a uniform share `floor`. Importance weights keep the loss
    what it is under `base`; only its variance changes (2303.00848). Times are drawn evenly, as by `Stratified`.
    """

    sums: Tensor
    counts: Tensor
    edges: Tensor

    def __init__(self, base: Times, bins: int = 100, keep: float = 0.99, floor: float = 0.05):
        super().__init__()
        self.base, self.keep, self.floor = base, keep, floor
        self.register_buffer("sums", torch.zeros(bins, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.float64))
        self.register_buffer("edges", torch.zeros(bins + 1, dtype=torch.float64), persistent=False)

    def _layout(self, process: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
        """log-SNR and times of the bins' edges, in the order of time, and the bins' probabilities."""
        device, schedule = self.sums.device, process.schedule
        with torch.no_grad():
            ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)).clamp(-20, 20)
            along = torch.linspace(0, 1, len(self.sums) + 1, dtype=torch.float64, device=device)
            log_snr = ends[0] + (ends[1] - ends[0]) * along
            edges = schedule.time(log_snr)
            share = self.base.density(process, (edges[1:] + edges[:-1]) / 2) * edges.diff()
        seen = self.counts > 0
        typical = self.sums.sum() / self.counts.sum().clamp(min=1e-300) if bool(seen.any()) else 1.0
        loss = torch.where(seen, self.sums / self.counts.clamp(min=1e-300), typical)
        p = loss * share
        return log_snr, edges, (1 - self.floor) * p / p.sum() + self.floor / len(p)

    def sample(self, process: Gaussian, rng: Rng) -> tuple[Tensor, Tensor]:
        log_snr, self.edges, p = self._layout(process)
        u, ends = evenly(rng).to(p.device), p.cumsum(0) / p.sum()
        b = torch.searchsorted(ends, u, right=True).clamp(max=len(p) - 1)
        within = ((u - (ends[b] - p[b])) / p[b]).clamp(0, 1)
        t = process.schedule.time(log_snr[b] + within * (log_snr[b + 1] - log_snr[b])).detach()
        return t, self.base.density(process, t) / self._density(process, t, log_snr, p, b)

    def _density(self, process: Gaussian, t: Tensor, log_snr: Tensor, p: Tensor, b: Tensor) -> Tensor:
        """p(lambda) |dlambda/dt|."""
        with torch.no_grad():
            alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
            dalpha, dsigma = process.schedule.derivatives(t)
        return p[b] / (log_snr[0] - log_snr[1]) * 2 * (dsigma / sigma - dalpha / alpha)

    def density(self, process: Gaussian, t: Tensor) -> Tensor:
        return self.base.density(process, t)

    def drawn(self, process: Gaussian, t: Tensor) -> Tensor:
        log_snr, edges, p = self._layout(process)
        return self._density(process, t, log_snr, p, self._bin(edges, t))

    def _bin(self, edges: Tensor, t: Tensor) -> Tensor:
        return torch.searchsorted(edges, t.to(edges.device), right=True).sub(1).clamp(0, len(edges) - 2)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        b = self._bin(self.edges, t)
        visits = torch.bincount(b, minlength=len(self.sums)).double()
        losses = torch.zeros_like(self.sums).index_add_(0, b, loss.double().to(b.device))
        self.sums.mul_(self.keep**visits).add_(losses)
        self.counts.mul_(self.keep**visits).add_(visits)
