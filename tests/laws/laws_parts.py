"""One instance or more of every part the library registers: what the laws are run on.

A new schedule, grid, step, preconditioning or distribution of times needs a line here; test_laws_registry.py says so
by name when it is missing.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch
from torch import Tensor

import unnoise
from unnoise import schedules as S
from unnoise.denoisers import preconditioning as P
from unnoise.denoisers.denoiser import Denoiser
from unnoise.laws import Estimate
from unnoise.objectives import times as T
from unnoise.oracles import Mixture, gaussian
from unnoise.papers.blurring import _Grain, _Sharper
from unnoise.papers.diffwave import Rest
from unnoise.papers.generalization import Whitened
from unnoise.processes import Dissipating, Gaussian
from unnoise.rng import Rng, stream
from unnoise.samplers import (
    DDIM,
    DEIS,
    FON,
    IPNDM,
    PNDM,
    RK45,
    SEEDS,
    SSCS,
    Adams,
    Adaptive,
    Ancestral,
    AnnealedLangevin,
    BridgeFlow,
    Churn,
    ConsistentLangevin,
    Corrector,
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverMultistep,
    DPMSolverPlus,
    Euler,
    EulerMaruyama,
    Fitted,
    Gamma,
    GeodesicWalk,
    GuidedAncestral,
    Heun,
    Jumps,
    Langevin,
    Levels,
    Naive,
    Policy,
    PredictorCorrector,
    Reduced,
    ReverseDiffusion,
    SDEDPMSolverMultistep,
    SingleStep,
    Straight,
    TauLeaping,
    UniPC,
    grids,
)

SCHEDULES = {
    "linear betas": S.FromBetas(S.linear_betas(1000)),
    "cosine betas": S.FromBetas(S.cosine_betas(1000)),
    "sqrt-linear betas": S.FromBetas(S.sqrt_linear_betas(1000)),
    "straight betas": S.StraightBetas(S.linear_betas(1000)),
    "linear VP": S.LinearVP(),
    "sub-VP": S.SubVP(),
    "cosine": S.Cosine(),
    "VE": S.VE(),
    "ladder": S.Geometric(0.01, 50.0, 200),
    "exponential VE": S.ExponentialVE(),
    "EDM": S.EDM(),
    "brownian": S.Brownian(40.0),
    "rectified": S.Rectified(),
    "learned": S.Learned(-12.0, 12.0, units=16).requires_grad_(False),
}

BY_FREQUENCY = {  # see test_laws_blurring.py; the grain is the same at all times, and only with blur destroys anything
    "dissipating": Dissipating(S.Cosine(-10.0, 10.0), (4, 4)),
    "grain": _Grain(0.01),
}

PRECONDITIONINGS = {
    **{f"raw {kind}": P.Raw(kind) for kind in P.KINDS},
    "raw eps, told the log-SNR": P.Raw("eps", "log_snr", 1.0),
    "DDPM": P.DDPM(SCHEDULES["linear betas"]),
    "DDPM mean": P.DDPM(SCHEDULES["linear betas"], "mean"),
    "EDM": P.EDM(0.5),
    "VDM": P.VDM(),
    "VP": P.VP(),
    "VE": P.VE(),
    "blind": P.Blind(),
    "whitened": Whitened(0.5),
    "IDDPM": P.IDDPM(),
    "rest": Rest(0.08, 1000),
}
PRECONDITIONINGS_BY_FREQUENCY = {"sharper": _Sharper(BY_FREQUENCY["dissipating"], 100)}  # see test_papers_blurring.py

TIMES = {
    "uniform": T.Uniform(0.001),
    "log-uniform": T.LogUniform(0.001),
    "steps": T.UniformSteps(1000),
    "stratified": T.Stratified(start=0.001),
    "stratified steps": T.Stratified(1000),
    "log-normal": T.LogNormal(),
    "half log-normal": T.HalfLogNormal(),
    "loss second moment": T.LossSecondMoment(1000),
    "adaptive": T.Adaptive(T.Uniform()),
}

STEPS = {
    "euler": Euler(),
    "heun": Heun(),
    "midpoint": Heun(a=0.5),
    "ralston": Heun(a=2 / 3),
    "ddim": DDIM(),
    "ddim, eta 0.5": Ancestral(eta=0.5),
    "ancestral": Ancestral(),
    "ancestral, large": Ancestral(variance="large"),
    "ancestral, mixed": Ancestral(mix=0.3),
    "ancestral, optimal": Ancestral(variance="optimal"),
    "ancestral, learned": Ancestral(variance="learned"),
    "guided ancestral": GuidedAncestral(),
    "naive": Naive(),
    "gamma": Gamma(),
    "churn heun": Churn(s_churn=20, s_noise=1.0),
    "churn euler": Churn(Euler(), s_churn=20, s_noise=1.0),
    "euler-maruyama": EulerMaruyama(),
    "reverse diffusion": ReverseDiffusion(),
    "langevin": Langevin(),
    "annealed langevin": AnnealedLangevin(h=0.1),
    "consistent langevin": ConsistentLangevin(),
    "corrector of no predictor": PredictorCorrector(None, AnnealedLangevin(h=0.1)),
    "predictor of no corrector": PredictorCorrector(ReverseDiffusion(), None),
    "predictor-corrector": PredictorCorrector(corrector=AnnealedLangevin(corrections=1, h=0.05)),
    "predictor, then corrector": PredictorCorrector(Heun(), AnnealedLangevin(corrections=2, h=0.05), "predictor"),
}
STEPS |= {
    "rectified adams": Adams(3, "velocity", "rectified"),
    "rosenbrock adams": Adams(3, "v", scale=0.7),
    "dpm-solver++ 2m": DPMSolverMultistep(formula="published"),
    "dpm-solver++ 3m": DPMSolverMultistep(3),
    "dpm-solver++ 3m, published": DPMSolverMultistep(3, formula="published"),
    "deis": DEIS(),
    "deis in time": DEIS(2, coordinate="time"),
    "ipndm": IPNDM(),
    "unipc": UniPC(),
    "unipc-3": UniPC(3, formula="bh1", descend=False),
    "pndm": PNDM(),
    "s-pndm": PNDM("S"),
    "plms": PNDM("short"),
    "pseudo runge-kutta": PNDM("RK"),
    "pseudo improved euler": PNDM("PIE"),
    "fon": FON(),
    "classical adams": FON("S"),
    "dpm-solver-2": DPMSolver(2, formula="taylor"),
    "dpm-solver-3": DPMSolver(),
    "dpm-solver++ 2s": DPMSolverPlus(),
    "single step in v": SingleStep(3, "v", "angle", "taylor", 0.4),
    "single step in log-angle": SingleStep(2, "v", "log-angle", scale=0.7),
    "dpm-solver fast": DPMSolverFast(remainder=1),
    "sde-dpm-solver++ 2m": SDEDPMSolverMultistep(),
    "sde-dpm-solver++ 3m": SDEDPMSolverMultistep(3, eta=0.5, brownian=True),
    "seeds-1": SEEDS(1),
    "seeds-2": SEEDS(2),
    "seeds-3": SEEDS(),
    "seeds-2, noise": SEEDS(2, "eps", formula="taylor", brownian=True),
    "seeds-3, F": SEEDS(3, "v", "log-sine", scale=0.5),
    "seeds-2, signs": SEEDS(2, noise="rademacher"),
    "rk45": RK45(),
    "dpm-solver adaptive": DPMSolverAdaptive(),
    "fitted": Fitted(Euler()),
}
# steps of processes that are not Gaussian: their own tests hold the laws
ELSEWHERE = {"bridge-flow": BridgeFlow(), "geodesic walk": GeodesicWalk(), "tau-leaping": TauLeaping(), "sscs": SSCS()}
IN_NOISE = {  # that know no other time
    name for name, step in STEPS.items() if isinstance(step, (Adams, SingleStep)) and step.coordinate != "time"
}
ADAPTIVE = {name for name, step in STEPS.items() if isinstance(step, Adaptive)}
CORRECTORS = {
    name
    for name, step in STEPS.items()
    if isinstance(step, (ConsistentLangevin, Corrector, Naive))
    or (isinstance(step, PredictorCorrector) and step.predictor is None)
}  # by themselves: biased, and orderless

GRIDS = {
    "uniform": grids.Uniform(10),
    "uniform through zero": grids.Uniform(10, through_zero=True),
    "quadratic": grids.Quadratic(10),
    "integers": grids.Integers(10),
    "leading": grids.Integers(10, "leading"),
    "shifted": grids.Integers(10, "shifted"),
    "trailing": grids.Integers(10, "trailing"),
    "quad": grids.Integers(10, "quadratic"),
    "karras": grids.Karras(10),
    "log-snr": grids.LogSNR(10),
    "straight": Straight(10),
    "jumps": Jumps(10),
    "levels": Levels.of((20.0, 5.0, 1.0, 0.2, 0.03)),
    "levels, between two": Levels(10),
    "reduced": Reduced(),
    "policy": Policy(10),
}


def registered(base: type) -> set[type]:
    """Every class of the library below `base`, whoever defines it: the whole package is imported first."""
    for module in pkgutil.walk_packages(unnoise.__path__, "unnoise."):
        if module.name.split(".")[1] in {"schedules", "processes", "denoisers", "objectives", "samplers", "papers"}:
            importlib.import_module(module.name)
    found, queue = set(), [base]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if cls.__module__.startswith("unnoise."):
                found.add(cls)
    return found


def process(name: str) -> Gaussian:
    return Gaussian(SCHEDULES[name])


def numbers(*key: int) -> torch.Generator:
    return stream(*key)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=stream(seed, 77), dtype=torch.float64)


class Together(Rng):
    """One stream for a whole batch, in float64: quick for thousands of examples, whose names do not matter here."""

    def __init__(self, batch: int, seed: int = 0, *purpose: int):
        super().__init__([], (*purpose, seed))
        self.batch, self.total, self.source = batch, batch, stream(*purpose, seed, 4)

    def spawn(self, *purpose: int) -> Together:
        return Together(self.batch, self.shared_key[-1], *purpose, *self.shared_key[:-1])

    def __len__(self) -> int:
        return self.batch

    @property
    def positions(self) -> list[int]:
        return list(range(self.batch))

    def _fill(self, draw, event, dtype):
        out = torch.empty(self.batch, *event, dtype=torch.float64 if dtype.is_floating_point else dtype)
        draw(out, generator=self.source)
        return out

    def normal(self, *event, dtype=torch.float64):
        return torch.randn(self.batch, *event, generator=self.source, dtype=torch.float64).to(dtype)


def scalar_gaussian(process: Gaussian, mean: float = 0.0, variance: float = 0.25) -> Denoiser:
    return gaussian(torch.tensor([mean], dtype=torch.float64), variance).denoiser(process)


def smooth_mixture() -> Mixture:
    """Three well-overlapping components in the plane, with classes."""
    means = torch.tensor([[-0.7, 0.1], [0.6, 0.5], [0.2, -0.8]], dtype=torch.float64)
    variances = torch.tensor([[0.15, 0.2], [0.1, 0.25], [0.2, 0.1]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Mixture(means, variances, weights, labels=torch.tensor([0, 1, 1]))


class WithFraction(Denoiser):
    """An oracle that states its optimal reverse variance as improved-ddpm's fraction, on a chain of the given points."""

    def __init__(self, denoiser: Denoiser, points: list):
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process
        self.below = {t.t: (t, s) for t, s in zip(points[:-1], points[1:], strict=True)}

    def forward(self, xt, t, cond=None):
        estimate = self.denoiser(xt, t, cond)
        here, s = self.below[float(t[0])]
        share = 1 - (here.alpha / here.sigma) ** 2 * (s.sigma / s.alpha) ** 2  # of the noise at t, what came after s
        small, large = s.sigma**2 * share, here.sigma**2 * share
        if small == 0:
            return Estimate(estimate.mean, fraction=torch.zeros_like(xt))
        best = small + (s.alpha * share) ** 2 * estimate.variance
        return Estimate(estimate.mean, fraction=(best / small).log() / torch.tensor(large / small).log())
