"""One call for every likelihood: `likelihood(model, x)`, `likelihood(denoiser, x, Continuous(draws=200), levels=256)`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem, unknown
from ..processes import Curved, Gaussian, Jump, LinearSDE
from ..processes.gaussian import CLEAN, Point
from ..rng import Rng
from ..samplers import Ancestral, Integers
from ..samplers import Uniform as UniformGrid
from ..spaces.space import in_data
from .bound import Discretised, bits_per_dim, check_chain, variational_bound
from .clock import clock
from .continuous import continuous_bound
from .curved import curved_flow_nats
from .dequantise import Dequantiser, Uniform
from .flow import check_flow, flow_nats
from .importance import importance_weighted_bound
from .jump import jump_bound


@dataclass(frozen=True)
class Likelihood:
    """-log p of each example: nats (batch,) and bits per dimension (batch,), float64.

    parts         of a bound, in bits per dimension.
    evaluations   calls of the denoiser for each example (batch,), int64; gradients not counted.
    """

    nats: Tensor
    bits: Tensor
    parts: dict[str, Tensor]
    evaluations: Tensor


METHODS: dict[str, type[Method]] = {}
"""Every method, by name."""


@dataclass(frozen=True)
class Method:
    """A way to compute or to bound -log p."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        METHODS[cls.name] = cls

    def nats(self, denoiser: Denoiser, x: Tensor, rng: Rng, cond: Cond, levels: int | None) -> tuple[Tensor, dict, Any]:
        """Nats (batch,), parts in nats, and evaluations (a number, or one for each example)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Flow(Method):
    """The density of the probability flow: exact, but for the solver and for Hutchinson's estimate of the divergence.

    Of data with grey levels, -log 1/K sum_k p(y_k) / q(y_k | x) over `draws` dequantised y: a bound that tightens with K.
    """

    name: ClassVar[str] = "flow"
    solver: Literal["adaptive", "heun", "rk4"] = "adaptive"
    steps: int = 100
    tolerance: float = 1e-5
    divergence: Literal["auto", "exact", "rademacher", "gaussian"] = "auto"
    probes: int = 1
    start: float | None = None
    draws: int = 1
    dequantiser: Dequantiser = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_flow(self.solver, self.steps, self.tolerance, self.divergence, self.probes)
        if self.draws < 1:
            raise UsageProblem(f"draws is {self.draws}, but dequantisation needs at least 1")

    def nats(self, denoiser, x, rng, cond, levels):
        def density(y: Tensor) -> tuple[Tensor, Tensor]:
            nats: Any = curved_flow_nats if isinstance(denoiser.process, Curved) else flow_nats
            return nats(
                denoiser, y, rng, cond, solver=self.solver, steps=self.steps, tolerance=self.tolerance,
                divergence=self.divergence, probes=self.probes, start=self.start,
            )  # fmt: skip

        if levels is None:
            total, calls = density(x)
            return total, {}, calls
        logs, densities, calls = [], [], 0
        for _ in range(self.draws):
            with torch.no_grad():
                y, log_q = self.dequantiser(x, levels, rng)
            nats, count = density(y)
            logs.append(-nats - log_q)
            densities.append(nats)
            calls = calls + count
        total = math.log(self.draws) - torch.logsumexp(torch.stack(logs), 0)
        mean = torch.stack(densities).mean(0)
        return total, {"density": mean, "dequantisation": total - mean}, calls


@dataclass(frozen=True)
class Continuous(Method):
    """VDM's bound in continuous time, or of a chain of `steps`, by `draws` noise levels; of tokens that jump, the score
    entropy's, by `draws` times, which are even in t."""

    name: ClassVar[str] = "continuous"
    draws: int = 100
    even_in: Literal["log-snr", "time"] = "log-snr"
    start: float | None = None
    steps: int | None = None

    def nats(self, denoiser, x, rng, cond, levels):
        if isinstance(denoiser.process, Jump):
            return self._of_tokens(denoiser, x, rng, cond)
        with torch.no_grad():
            terms = continuous_bound(
                denoiser, x, rng, cond, levels=levels, draws=self.draws, even_in=self.even_in, start=self.start,
                steps=self.steps,
            )  # fmt: skip
        parts = {"prior": terms.prior, "diffusion": terms.diffusion, "reconstruction": terms.reconstruction}
        return terms.total, parts, self.draws + (levels is None)

    def _of_tokens(self, denoiser, x, rng, cond):
        if self.steps is not None:
            raise UsageProblem(
                "tokens that jump have a bound of a chain of steps by the method bound; leave steps out here"
            )
        with torch.no_grad():
            terms = jump_bound(denoiser, x, rng, cond, draws=self.draws, start=self.start)
        parts = {"prior": terms.prior, "diffusion": terms.diffusion, "reconstruction": terms.reconstruction}
        return terms.total, parts, self.draws + 1


@dataclass(frozen=True)
class Chain(Method):
    """The variational bound of a chain of `steps`: all it was trained with, or 100 evenly in log-SNR where time is continuous."""

    name: ClassVar[str] = "bound"
    steps: int | None = None
    reverse: Ancestral = field(default_factory=Ancestral)

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UsageProblem(f"steps is {self.steps}, but a chain has 1 or more")

    def points(self, denoiser: Denoiser) -> list[Point]:
        process = denoiser.process
        total = getattr(getattr(process, "schedule", process), "steps", None)
        if total is not None:
            return Integers(self.steps or total)(process)
        if isinstance(process, LinearSDE):
            raise UsageProblem(
                f"the chain of a {type(process).__name__} process ends at the data exactly, with no decoder; take --method flow"
            )
        if not isinstance(process, Gaussian):
            return UniformGrid(self.steps or 100)(process)
        ticking = clock(process, None, "chain")
        u = torch.linspace(1, 0, (self.steps or 100), dtype=torch.float64)
        return [*process.points(ticking.time(u)[0]), CLEAN]

    def nats(self, denoiser, x, rng, cond, levels):
        points = self.points(denoiser)
        decoder = None if levels is None or not isinstance(denoiser.process, Gaussian) else Discretised(levels)
        terms = variational_bound(denoiser, self.reverse, points, x, rng, cond, decoder)
        scale = x[0].numel() * math.log(2)
        parts = {"prior": terms.prior, "steps": terms.steps[:, 1:].sum(1), "decoder": terms.steps[:, 0]}
        return terms.total * scale, {name: value * scale for name, value in parts.items()}, len(points) - 1


@dataclass(frozen=True)
class ImportanceWeighted(Chain):
    """The bound of the same chain by `samples` trajectories together."""

    name: ClassVar[str] = "importance"
    samples: int = 8

    def nats(self, denoiser, x, rng, cond, levels):
        points = self.points(denoiser)
        decoder = None if levels is None else Discretised(levels)
        total = importance_weighted_bound(denoiser, self.reverse, points, x, rng, cond, decoder, self.samples)
        return total, {}, self.samples * (len(points) - 1)


def likelihood(
    model: Any,
    x: Tensor,
    method: Method | str = "flow",
    *,
    cond: Cond = None,
    rng: Rng | None = None,
    levels: int | None = None,
) -> Likelihood:
    """-log p(x), or a bound of it, for data x (batch, *event) in [-1, 1]; example i by stream i of `rng` alone.

    model    a `Model`, whose data's grey levels are then meant, or a denoiser.
    method   a `Method`, or one of METHODS with its defaults.
    levels   grey levels of x, which then has a probability; None for a denoiser or for points: continuous data, which have a
             density (of points, by the Riemannian measure of their manifold); and for tokens, which have a probability anyhow.
    cond     conditions, as for sampling: -1 is no label.

    Raises UsageProblem for parts that do not fit together: a process without a flow, a chain without densities.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise unknown("likelihood", method, METHODS)
        method = METHODS[method]()
    denoiser = model if isinstance(model, Denoiser) else model.denoiser
    check_chain(denoiser.process)
    in_data(denoiser, "a likelihood")
    if levels is None and not isinstance(model, Denoiser) and model.spec.kind not in ("points", "text"):
        levels = model.spec.levels
    rng = Rng.from_seeds(range(len(x)), device=x.device) if rng is None else rng
    nats, parts, calls = method.nats(denoiser, x, rng, cond, levels)
    in_bits = {name: bits_per_dim(value, x) for name, value in parts.items()}
    evaluations = torch.as_tensor(calls, dtype=torch.int64).expand(len(x))
    return Likelihood(nats, bits_per_dim(nats, x), in_bits, evaluations)
