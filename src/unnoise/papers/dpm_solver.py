r"""DPM-Solver and DPM-Solver++: the linear part of the flow exactly, the network by its derivatives in l = log(alpha/sigma).

    x_s = (alpha_s/alpha_t) x_t - sigma_s sum_k h^{k+1} phi_{k+1}(h) eps^{(k)}      h = l_s - l_t      (DPM-Solver)
    x_s = (sigma_s/sigma_t) x_t + alpha_s sum_k h^{k+1} phi_{k+1}(-h) x_0^{(k)}                        (DPM-Solver++)

The derivatives come from stages within a step (singlestep) or from the steps before (multistep). One term is DDIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser, classifier_free, guided
from ..errors import UsageProblem
from ..laws import Estimate
from ..oracles import Mixture
from ..processes import Gaussian
from ..processes.gaussian import Point
from ..recipe import Sampling
from ..rng import Rng, stream
from ..samplers import (
    DDIM,
    Ancestral,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverMultistep,
    Integers,
    LogSNR,
    SingleStep,
    sample,
)
from ..samplers import DPMSolver as Step
from ..samplers import Step as AnyStep
from ..schedules import LinearVP
from ..verify import Finding, check, claim, untestable
from . import cfg, paper
from .ddpm import DDPM
from .pndm import compared, exactly


@paper(
    "2206.00927",
    "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
    "Cheng Lu, Yuhao Zhou, Fan Bao, Jianfei Chen, Chongxuan Li, Jun Zhu",
    2022,
    "NeurIPS 2022",
)
@dataclass(frozen=True)
class DPMSolver(DDPM):
    """The same training as DDPM; exponential solvers of order 1 to 3 in the log-SNR, with DPM-Solver++ (2211.01095)."""

    algorithm: Literal["dpm-solver", "dpm-solver++", "sde-dpm-solver++"] = "dpm-solver++"
    """What is expanded: the noise, or the clean image (++, stable under guidance), on the flow or on the reverse SDE."""
    method: Literal["multistep", "singlestep", "fast", "adaptive"] = "multistep"
    """Guesses of steps before, stages within a step, stages that meet a number of evaluations, or steps that choose their size."""
    order: Literal[1, 2, 3] = 2
    """Guesses that make a step."""
    evaluations: int = 20
    """Calls of the network; a tolerance decides where the method is adaptive."""

    def __post_init__(self) -> None:
        self.solver()

    @classmethod
    def paper(cls) -> DPMSolver:
        """CIFAR-10 in 20 evaluations by the singlestep solver of third order."""
        return replace(super().paper(), algorithm="dpm-solver", method="fast", order=3)

    def solver(self) -> tuple[AnyStep, int]:
        """The step, and how many of it the evaluations pay for. Raises UsageProblem where the options do not fit."""
        variable, eta = ("eps" if self.algorithm == "dpm-solver" else "x0"), float(self.algorithm.startswith("sde"))
        if self.method == "multistep":
            step = DPMSolverMultistep(self.order, variable, eta=eta)
            step.fits(self.evaluations)
            return step, self.evaluations
        if self.method == "singlestep":
            if self.evaluations <= self.order:
                raise UsageProblem(
                    f"a step of order {self.order} and the last guess cost more than {self.evaluations} calls"
                )
            return SingleStep(self.order, variable, eta=eta), (self.evaluations - 1) // self.order + 1
        if self.method == "fast":
            if self.order != 3:
                raise UsageProblem(
                    f"the fast method is of order 3, not {self.order}; choose singlestep for lower orders"
                )
            return DPMSolverFast.for_evaluations(self.evaluations, variable=variable, eta=eta)
        if eta or self.order == 1:
            raise UsageProblem("the adaptive method has order 2 or 3, and no noise; choose another order or algorithm")
        return DPMSolverAdaptive(variable=variable, stages=self.order), 2

    def sampling(self) -> Sampling:
        step, steps = self.solver()
        return Sampling(step, LogSNR(steps, sigma_min=self.process().point(1 / self.timesteps).ratio))


# Exact checks.


class _Given(Denoiser):
    """A guess that is a function of half the log-SNR alone; it counts its calls."""

    def __init__(self, function=lambda l: torch.zeros_like(l)):
        super().__init__()
        self.process, self.function, self.calls = Gaussian(LinearVP()), function, 0

    def forward(self, xt, t, cond=None):
        self.calls += 1
        return Estimate(self.function(self.process.schedule.log_snr(t) / 2)[:, None].expand_as(xt))


def _at(process: Gaussian, *half_log_snr: float) -> list[Point]:
    return process.points(process.schedule.time(2 * torch.tensor(half_log_snr, dtype=torch.float64)))


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=stream(0, 42), dtype=torch.float64)


@check(
    DPMSolver, "order 1 in the noise, order 1 in the data and DDIM are one step: largest difference", "section 4", 1e-12
)
def first_order_is_ddim():
    denoiser = _mixture()
    t, s = denoiser.process.points([0.7, 0.4])
    x = _normal(6, 1)
    steps = (DDIM(), DPMSolverMultistep(1, "eps"), DPMSolverMultistep(1), SingleStep(1, "eps"), SingleStep(1))
    ends = [sample(denoiser, step, lambda _: [t, s], x.shape, start=x, dtype=torch.float64) for step in steps]
    return float(max((a - b).abs().max() for a, b in pairwise(ends))), 0.0


def _step_of_a_parabola(formula: str) -> float:
    """Error of a third-order multistep step for x_0 = l^2, with three guesses at hand."""
    points = _at(_Given().process, -1.0, -0.6, 0.1, 0.5)
    step, t, s = DPMSolverMultistep(3, formula=formula), points[2], points[3]
    weights = step.weights(step.flow, points[2::-1], t, s)
    ours = sum(w * p.half_log_snr**2 for w, p in zip(weights, points[2::-1], strict=True))

    def integral(l):  # of e^l l^2
        return math.exp(l) * (l * l - 2 * l + 2)

    exact = s.sigma * (integral(s.half_log_snr) - integral(t.half_log_snr))
    return float(ours - exact)


@check(DPMSolver, "a multistep step of order 3 is exact for a guess that is a parabola in log-SNR: error", "++", 1e-12)
def third_order_of_a_parabola():
    return _step_of_a_parabola("exact"), 0.0


@check(DPMSolver, "the form found in public code leaves half the curvature out: its error over that", "++", 1e-9)
def published_third_order_of_a_parabola():
    points = _at(_Given().process, 0.1, 0.5)
    h, s = 0.4, points[1]
    third = 0.5 - (1 - (1 - math.exp(-h)) / h) / h  # h phi_3(-h)
    return _step_of_a_parabola("published") / (s.alpha * third * h * h * 2 / 2), -1.0


def _mixture():
    data = Mixture(torch.tensor([[-0.8], [0.1], [0.7]]), torch.tensor([[0.1], [0.2], [0.05]]))
    return data.denoiser(Gaussian(LinearVP()))


@lru_cache
def _end(step: AnyStep, n: int) -> Tensor:
    """Where n steps, even in log-SNR, take nine states along the flow of a mixture."""
    denoiser, x = _mixture(), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    points = _at(denoiser.process, *(-4 + 6 * i / n for i in range(n + 1)))
    return sample(denoiser, step, lambda _: points, x.shape, start=x, dtype=torch.float64)


def order(step: AnyStep) -> float:
    """Order of convergence from 160 steps to 320."""
    errors = [float((_end(step, n) - _end(SingleStep(3), 1000)).norm()) for n in (160, 320)]
    return math.log2(errors[0] / errors[1])


@check(DPMSolver, "order of DPM-Solver-2", "theorem on the order of solvers", tolerance=0.1)
def order_of_two_stages():
    return order(Step(2)), 2.0


@check(DPMSolver, "order of DPM-Solver-3", "theorem on the order of solvers", tolerance=0.1)
def order_of_three_stages():
    return order(Step(3)), 3.0


@check(DPMSolver, "order of DPM-Solver++ 2M", "++", tolerance=0.1)
def order_of_2m():
    return order(DPMSolverMultistep(2, formula="published")), 2.0


@check(DPMSolver, "order of DPM-Solver++ 3M", "++", tolerance=0.1)
def order_of_3m():
    return order(DPMSolverMultistep(3)), 3.0


@check(DPMSolver, "order of DPM-Solver++ 3M as found in public code", "++", tolerance=0.1)
def order_of_published_3m():
    return order(DPMSolverMultistep(3, formula="published")), 2.0


@check(DPMSolver, "of 5 to 40 evaluations asked of the fast solver, how often it makes another number", "fast", 0.0)
def fast_meets_its_budget():
    wrong = 0
    for asked in range(5, 41):
        denoiser = _Given()
        step, steps = DPMSolverFast.for_evaluations(asked)
        sample(denoiser, step, LogSNR(steps), (1, 1))
        wrong += (denoiser.calls != asked) + (step.evaluations(steps) != asked)
    return wrong, 0.0


@check(DPMSolver, "order 1 on the reverse SDE has the mean and variance of DDPM's posterior: difference", "++", 1e-12)
def first_order_sde_is_ancestral():
    denoiser = _mixture()
    process, flow = denoiser.process, SingleStep(1, eta=1.0).flow
    t, s = process.points([0.7, 0.4])
    x, x0 = _normal(6, 1), _normal(6, 1) / 2
    law = process.posterior(x, x0, t, s)
    mean = flow.carry(t, s) * x + flow.weights([t], t, s)[0] * x0
    return float((mean - law.mean).abs().max()) + abs(flow.spread(t, s) - law.std), 0.0


# Claims, on the digits with DDPM's own networks and, for guidance, on Fashion-MNIST with those of classifier-free guidance.


def _sampling(evaluations: int, **options):
    sampling = DPMSolver(evaluations=evaluations, **options).sampling()
    return sampling.step, sampling.grid


METHODS = {
    "fast": {"algorithm": "dpm-solver", "method": "fast", "order": 3},
    "++2M": {},
}


def _against_ddim(name: str, evaluations: int, of_ddim: int, factor: float, statement: str, source: str) -> None:
    """A claim that a method is closer to the exact flow than DDIM by a factor."""

    def measure(lab) -> Finding:
        ours = {f"{name}, {evaluations} evaluations": _sampling(evaluations, **METHODS[name])}
        theirs = {f"DDIM, {of_ddim} evaluations": (DDIM(), Integers(of_ddim))}
        return compared(lab, ours, theirs, factor)

    measure.__name__ = f"{name.replace('++', 'multistep_')}_{evaluations}_against_ddim_{of_ddim}"
    claim(DPMSolver, statement, source)(measure)


for _name in METHODS:
    for _n in (10, 15, 20):
        _against_ddim(
            _name, _n, _n, 2.0, f"With {_n} evaluations, {_name} is over twice as close to the flow as DDIM", "figures"
        )
    _against_ddim(
        _name,
        20,
        80,
        1.0,
        f"{_name} with 20 evaluations is closer to the flow than DDIM with 80",
        "abstract: 4 to 16 times",
    )


@claim(
    DPMSolver,
    "Under guidance of weight 8, with 20 evaluations, ++2M is closer to the flow than second order in the noise",
    "++, abstract",
)
def data_prediction_under_guidance(lab) -> Finding:
    margins, numbers = [], {}
    labels = {"label": torch.arange(40) % 10}
    cases = {"++2M": DPMSolverMultistep(2), "2M in the noise": DPMSolverMultistep(2, "eps"), "DDIM": DDIM()}
    x, grid = Rng.from_seeds(range(40)).normal(1, 16, 16), LogSNR(20, sigma_min=0.01)
    for seed in lab.seeds:
        denoiser = guided(cfg._model(lab, seed).denoiser, [classifier_free(8.0)])
        exact = sample(denoiser, DPMSolverMultistep(3), exactly(denoiser.process, grid), x.shape, start=x, cond=labels)
        found = {}
        for name, step in cases.items():
            end = sample(denoiser, step, grid, x.shape, start=x, cond=labels)
            found[name] = float((end - exact).square().mean().sqrt())
        margins.append(math.log(found["2M in the noise"] / found["++2M"]))
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(
        margins, {"measure": "RMS distance of 40 pictures to the guided flow's; logarithm of ratio", **numbers}
    )


@claim(
    DPMSolver,
    "On the reverse SDE with 20 evaluations, SDE-DPM-Solver++ 2M makes better pictures than ancestral sampling",
    "++",
)
def sde_version_beats_ancestral(lab) -> Finding:
    margins, numbers = [], {}
    sde = DPMSolver(algorithm="sde-dpm-solver++", evaluations=20).sampling()
    for seed in lab.seeds:
        model, held_out = lab.digits(DDPM, seed), lab.held_out("digits")
        found = {
            name: lab.frechet(lab.samples(model, 400, sampling), held_out)
            for name, sampling in {"SDE 2M": sde, "ancestral": Sampling(Ancestral(), Integers(20))}.items()
        }
        margins.append(found["ancestral"] - found["SDE 2M"])
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "frechet[classifier:digits], 400 samples", **numbers})


untestable(
    DPMSolver,
    "CIFAR-10 FID 4.70 with 10 evaluations and 2.87 with 20",
    "abstract",
    "needs the published continuous-time CIFAR-10 network, which takes days of a large GPU to train",
)
untestable(
    DPMSolver,
    "Good guided samples of large pixel and latent models in 15 to 20 steps",
    "2211.01095, abstract",
    "needs guided models of ImageNet at 256x256 and Stable Diffusion",
)
