r"""Critically damped Langevin diffusion: noise enters a velocity, data feel it through their motion, and only the velocity's
score is learned, which stays near that of a Gaussian.

dx = v/M beta dt,   dv = -(x + Gamma v/M) beta dt + (2 Gamma beta)^(1/2) dw,   Gamma^2 = 4 M
L = E |eps_v - alpha(u_t, t)|^2,   score_v = -ell alpha,   alpha = network + v / (ell S_vv),   1/ell^2 = S_vv - S_xv^2 / S_xx

v_0 is integrated out of the kernel N(c x_0, S): hybrid score matching. Then score_v and E[x_0 | u_t] are one linear relation, and
the model guesses data as every other does; its flow and its reverse SDEs are those of a linear SDE (processes/linear.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoisers import Denoiser, VelocityDenoiser
from ..networks import published
from ..objectives import Objective, Uniform, VelocityMatching
from ..oracles import Mixture, gaussian
from ..processes import CriticallyDamped, Gaussian, LinearSDE
from ..processes.damped import multiplier
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import RK45, SSCS, EulerMaruyama, Quadratic, Step, sample
from ..samplers import Uniform as Grid
from ..schedules import LinearVP
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "2112.07068",
    "Score-Based Generative Modeling with Critically-Damped Langevin Diffusion",
    "Tim Dockhorn, Arash Vahdat, Karsten Kreis",
    2022,
    "ICLR 2022",
)
@dataclass(frozen=True)
class CLD(Recipe):
    """Noise in a velocity beside the data: an easier score to learn, and a splitting sampler of its own."""

    mass: float = 0.25
    """M; the friction is critical, 2 sqrt(M)."""
    gamma: float = 0.04
    """The velocity begins with variance gamma M."""
    beta: tuple[float, float] = (4.0, 4.0)
    """The rate of time at t = 0 and at t = 1, linear between."""
    floor: float = 1e-9
    """Variance added to data and velocity at t = 0, which bounds the score there."""
    matching: Literal["hybrid", "denoising"] = "hybrid"
    """Whether v_0 is integrated out of the loss (HSM) or drawn (DSM)."""
    mixed_score: bool = True
    """Whether the network learns what a Gaussian does not know of the velocity's score, or all of it."""
    weighting: Literal["simple", "likelihood"] = "simple"
    """Of the score's error: 1/ell^2, or Gamma beta, which bounds the likelihood."""
    t_min: float = 1e-5
    """Smallest time of training."""
    sampler: Literal["sscs", "sscs-2", "euler-maruyama", "flow"] = "sscs"
    """The splitting as published, of second order (two evaluations a step), Euler-Maruyama, or the flow by RK45 to 1e-5."""
    striding: Literal["quadratic", "linear"] = "quadratic"
    """Whether the sampler's steps shrink towards the data."""
    sampling_steps: int = 100
    """Steps of the sampler."""
    end: float = 1e-3
    """The time from which its last step goes to the data."""

    @classmethod
    def paper(cls) -> CLD:
        """CIFAR-10, 800k steps: FID 2.25 by the flow. The network is NCSN++ (deep), told log t, of 6 channels to 3."""
        return cls(
            data="cifar10",
            flip=True,
            sampler="flow",
            network=published.NCSNPP_DEEP_CIFAR10,
            training=replace(
                PUBLISHED,
                steps=800_000,
                batch_size=128,
                lr=2e-4,
                warmup=100_000,
                ema=887_000,  # 0.9999 a step
            ),
        )

    def process(self) -> CriticallyDamped:
        return CriticallyDamped(self.mass, self.gamma, self.floor, self.beta)

    def denoiser(self, spec: Spec) -> Denoiser[CriticallyDamped]:
        told = "log t" if self.network.embedding == "fourier" else "t"
        network = self.build_network(spec, inputs=2)
        return VelocityDenoiser(network, self.process(), self.mixed_score, self.matching == "hybrid", told)

    def objective(self, spec: Spec) -> Objective:
        return VelocityMatching(Uniform(self.t_min), self.matching == "hybrid", self.weighting == "likelihood")

    def sampling(self) -> Sampling:
        if self.sampler == "flow":
            return Sampling(RK45(), Grid(2, end=self.end))
        grid = (Quadratic if self.striding == "quadratic" else Grid)(self.sampling_steps, end=self.end)
        steps: dict[str, Step] = {"sscs": SSCS(), "sscs-2": SSCS(2), "euler-maruyama": EulerMaruyama()}
        return Sampling(steps[self.sampler], grid)


# Exact checks.


def _normal(mean: float = 0.3, variance: float = 0.25, **options) -> Denoiser[LinearSDE]:
    """The exact denoiser of N(mean, variance) data."""
    return gaussian(torch.tensor([mean], dtype=torch.float64), variance).denoiser(CriticallyDamped(**options))


@check(
    CLD,
    "hybrid kernel beside Van Loan's exponential of twice the size, clocks to 1: largest difference",
    "exact",
    1e-10,
)
def kernel_is_the_exponential():
    process, found = CriticallyDamped(), 0.0
    block = torch.zeros(4, 4, dtype=torch.float64)
    block[:2, :2], block[:2, 2:], block[2:, 2:] = -process.drift, process.spread, process.drift.T
    for point in process.points([0.01, 0.05, 0.1, 0.25]):
        e = torch.matrix_exp(block * point.clock)
        flow = e[2:, 2:].T
        covariance = flow @ process.start @ flow.T + flow @ e[:2, 2:]
        found = max(
            found, float((covariance - point.covariance).abs().max()), float((flow[:, 0] - point.gain).abs().max())
        )
    return found, 0.0


@check(CLD, "ell at t = 1e-5, v_0 integrated out, with the published floor 1e-9", "the paper's code", 5e-3)
def multiplier_is_bounded():
    process = CriticallyDamped(floor=1e-9)
    return multiplier(process.point(1e-5).covariance), 11.163


@check(CLD, "ell at t = 1e-5, v_0 given, without floor: (2/(Gamma B))^(1/2)", "derived", 0.05)
def multiplier_runs_away():
    process = CriticallyDamped()
    return multiplier(process.fresh(process.point(1e-5))), math.sqrt(2 / 4e-5)


@check(
    CLD, "what the velocity's score tells of x_0, -d snr/dt over 2 Gamma beta [S^-1 c]_v^2, at t = 0.3", "derived", 1e-6
)
def velocity_tells_all():
    process = CriticallyDamped()
    low, here, high = process.points([0.3 - 1e-5, 0.3, 0.3 + 1e-5])
    told = 2 * process.friction * here.beta * (here.precision @ here.gain)[1] ** 2
    return (low.snr - high.snr) / 2e-5 / told, 1.0


class _Columns(Rng):
    """Row k of the batch is 1 in one part of one draw, and 0 elsewhere: the columns of a sampler's linear map."""

    def __init__(self, batch: int):
        super().__init__([], (0,))
        self.batch, self.next = batch, 3

    def normal(self, *event, dtype=torch.float64):
        out = torch.zeros(self.batch, *event, dtype=torch.float64)
        out[self.next, 0] = out[self.next + 1, 1] = 1
        self.next += 2
        return out.to(dtype)


def _variance(step: Step, times: list[float]) -> float:
    """Of x where a walk through these times ends, exactly, less what it should be: on N(0.3, 1/4) data, from their law."""
    denoiser = _normal()
    points: Any = denoiser.process.points(times)
    rows = 3 + 4 * len(points)
    start = torch.zeros(rows, 2, 1, dtype=torch.float64)
    start[1, 0] = start[2, 1] = 1
    x = sample(denoiser, step, lambda _: points, (rows, 1), rng=_Columns(rows), start=start, dtype=torch.float64)
    before, after = (0.25 * torch.outer(p.gain, p.gain) + p.covariance for p in (points[0], points[-1]))
    columns = x[1:, 0] - x[0, 0]
    return float(columns[:2] @ before @ columns[:2] + columns[2:].square().sum() - after[0, 0])


def _halving(step: Step) -> float:
    """Error of 80 even steps from t = 0.9 to 0.25 over that of 160."""
    coarse, fine = (_variance(step, torch.linspace(0.9, 0.25, n + 1, dtype=torch.float64).tolist()) for n in (80, 160))
    return coarse / fine


@check(CLD, "SSCS as published: error of the variance over that with half the step", "derived", 0.1)
def splitting_is_of_first_order():
    return _halving(SSCS()), 2.0


@check(CLD, "SSCS with a midpoint kick: error of the variance over that with half the step", "derived", 0.1)
def splitting_of_second_order():
    return _halving(SSCS(2)), 4.0


@check(CLD, "the flow of N(0.3, 1/4) data by RK45 to 1e-8, from t = 1 to 1e-3: error of the variance", "derived", 1e-6)
def flow_of_a_gaussian():
    return _variance(RK45(atol=1e-8, rtol=1e-8), [1.0, 1e-3]), 0.0


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 1000 steps of 64 images.


def _model(lab, seed, **options):
    return lab.digits(CLD, seed, steps=1000, small=True, **options)


def _walks(steps: int) -> dict[str, Sampling]:
    grid = Quadratic(steps, end=1e-3)
    return {"sscs": Sampling(SSCS(), grid), "euler-maruyama": Sampling(EulerMaruyama(), grid)}


@claim(
    CLD, "With 25 and with 50 quadratic steps, SSCS samples better than Euler-Maruyama from the same network", "table 3"
)
def splitting_samples_better(lab) -> Finding:
    held_out, margins, numbers = lab.held_out("digits"), [], {}
    for seed in lab.seeds:
        model, row = _model(lab, seed), {}
        for n in (25, 50):
            for name, sampling in _walks(n).items():
                row[f"{name}, {n} steps"] = lab.sliced(lab.samples(model, 400, sampling), held_out)
        margins.append(min(row[f"euler-maruyama, {n} steps"] - row[f"sscs, {n} steps"] for n in (25, 50)))
        numbers[f"seed {seed}"] = row
    shown = {"data": _framed(held_out)}
    for n in (25, 50):
        for name, sampling in _walks(n).items():
            shown[f"{name}, {n}"] = _framed(lab.samples(_model(lab, lab.seeds[0]), 400, sampling))
    pictures = [lab.gallery_of("samples", shown)]
    return Finding.over_seeds(margins, {"measure": "sliced_wasserstein[pixels], 400 samples", **numbers}, pictures)


def _framed(x: Tensor) -> Tensor:
    """Images with a grey frame, so that neighbours are told apart."""
    return F.pad(x, (1, 1, 1, 1), value=0.0)


def _digits(lab, count: int) -> Mixture:
    """Training digits, each spread by 0.1: data like digits whose score is known."""
    return Mixture(lab.data("digits").batch(range(count)).x.double(), 0.01)


def _walked(denoiser: Denoiser[LinearSDE], step: Step, grid: Callable, seeds: range) -> Tensor:
    """Where walks end before their last step, to the guess, which would hide what is wrong with them."""
    points = grid(denoiser.process)[:-1]
    parts = [Rng.from_seeds(seeds[i : i + 50]) for i in range(0, len(seeds), 50)]
    shape, kind = (1, 8, 8), torch.float64
    return torch.cat([sample(denoiser, step, lambda _: points, (len(p), *shape), rng=p, dtype=kind) for p in parts])


@claim(
    CLD,
    "With the exact score of digits, the law after 25 and after 50 quadratic steps of SSCS is nearer than of Euler-Maruyama",
    "table 3",
)
def splitting_is_nearer_in_law(lab) -> Finding:
    data, margins, numbers = _digits(lab, 100), [], {}
    denoiser, truth = data.denoiser(CriticallyDamped()), data.sample(Rng.from_seeds(range(10_000, 12_000)))
    walks = {
        f"{name}, {n} evaluations": (step, Quadratic(n // cost, end=1e-3))
        for n in (25, 50)
        for name, step, cost in (("sscs", SSCS(), 1), ("euler-maruyama", EulerMaruyama(), 1), ("sscs-2", SSCS(2), 2))
    }
    for seed in lab.seeds:
        row = {}
        for name, (step, grid) in walks.items():
            row[name] = lab.sliced(_walked(denoiser, step, grid, range(200 * seed, 200 * (seed + 1))), truth)
        margins.append(min(row[f"euler-maruyama, {n} evaluations"] - row[f"sscs, {n} evaluations"] for n in (25, 50)))
        numbers[f"seed {seed}"] = row
    measure = "sliced_wasserstein[pixels] at t = 1e-3 of 200 samples, to 2,000 draws of 100 digits spread by 0.1"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


def _near_zero(lab, model) -> dict[str, float]:
    """A model's own loss at times spread evenly in log t over [1e-5, 1e-3], on held-out digits: mean, deviation, times ell^2."""
    x0 = lab.held_out("digits")
    rng = Rng.from_seeds(range(len(x0)))
    t = 10 ** (-5 + 2 * rng.uniform())
    objective = model.recipe.objective(model.spec)
    with torch.no_grad():
        loss = objective.at(model.denoiser, x0, t, None, rng).double()
    ell = multiplier(model.denoiser.process.at(t).covariance)
    if model.recipe.matching == "denoising":
        ell = multiplier(model.denoiser.process.fresh(model.denoiser.process.at(t)))
    of_score = float((ell**2 * loss).mean())
    return {"loss": float(loss.mean()), "deviation": float(loss.std()), "in units of the score": of_score}


@claim(
    CLD,
    "Near t = 0 hybrid score matching leaves less of its target unexplained than denoising score matching",
    "the paper",
)
def hybrid_explains_more(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        row = {kind: _near_zero(lab, _model(lab, seed, matching=kind)) for kind in ("hybrid", "denoising")}
        margins.append(row["denoising"]["loss"] - row["hybrid"]["loss"])
        numbers[f"seed {seed}"] = row
    measure = "mean square error of eps_v on held-out digits, t in [1e-5, 1e-3] evenly in log t; and times ell^2"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


def _better(lab, better: dict, worse: dict, steps: int = 50) -> Finding:
    """Samples of SSCS in so many quadratic steps: distances to held-out digits."""
    sampling, margins, numbers = _walks(steps)["sscs"], [], {}
    for seed in lab.seeds:
        row = [
            lab.sliced(lab.samples(_model(lab, seed, **options), 400, sampling), lab.held_out("digits"))
            for options in (better, worse)
        ]
        margins.append(row[1] - row[0])
        numbers[f"seed {seed}"] = dict(zip((str(better or "as it is"), str(worse)), row, strict=True))
    measure = f"sliced_wasserstein[pixels], 400 samples, SSCS, {steps} quadratic steps"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


@claim(CLD, "Trained by hybrid score matching, the model samples better than by denoising score matching", "the paper")
def hybrid_samples_better(lab) -> Finding:
    return _better(lab, {}, {"matching": "denoising"})


@claim(CLD, "With the mixed score the model samples better than without", "tables 4 and 5")
def mixed_score_samples_better(lab) -> Finding:
    return _better(lab, {}, {"mixed_score": False})


@claim(
    CLD,
    "At most times the best network is smoother than that of a variance-preserving diffusion: a smaller Jacobian",
    "figure 2",
)
def network_is_smoother(lab) -> Finding:
    """Of the exact denoisers of 200 digits, each spread by 0.1: nothing is trained."""
    data, times = _digits(lab, 200), [0.1 * i for i in range(1, 10)]
    margins, numbers = [], {}
    damped, plain = CriticallyDamped(), Gaussian(LinearVP())
    as_noisy = plain.schedule.time(damped.kernel(torch.tensor(times, dtype=torch.float64)).snr.log()).tolist()
    for seed in lab.seeds:
        rows = {
            "cld": [_jacobian(data, damped, t, seed) for t in times],
            "vp": [_jacobian(data, plain, t, seed) for t in times],
        }
        smoother = sum(a < b for a, b in zip(*rows.values(), strict=True))
        margins.append(smoother / len(times) - 0.5)
        rows["vp, where data are as noisy"] = [_jacobian(data, plain, t, seed) for t in as_noisy]
        numbers[f"seed {seed}"] = rows
    measure = (
        "square of the Jacobian's Frobenius norm, a number of the output, of what is to be added to a Gaussian's score"
    )

    def paint(axes):
        for name in next(iter(numbers.values())):
            means = [sum(rows[name][i] for rows in numbers.values()) / len(numbers) for i in range(len(times))]
            axes.plot(times, means, label=name)
        axes.set(xlabel="t", ylabel="|J|^2 a number of the output", yscale="log")
        axes.legend()

    found = {"measure": measure, "times": times, **numbers}
    return Finding.over_seeds(margins, found, [lab.picture("jacobians", paint)])


def _jacobian(
    data: Mixture, process: LinearSDE | Gaussian, t: float, seed: int, count: int = 32, probes: int = 8
) -> float:
    """E |J|^2 / d, by vectors of +-1, of the residual of the mixed score at u_t: eps_guess less what N(0, 1), or v's own
    variance, gives."""
    rng = Rng.from_seeds(range(count)).spawn(seed)
    time = torch.full((count,), t, dtype=torch.float64)
    u = process.corrupt(data.sample(rng), time, rng).requires_grad_()
    denoiser = data.denoiser(process)
    if isinstance(process, LinearSDE):
        own, ell = process.point(t).covariance[1, 1], multiplier(process.point(t).covariance)
        residual = -(process.score(u, denoiser(u, time).mean, time)[:, 1] + u[:, 1] / own) / ell
    else:
        point = process.point(t)
        residual = process.noise(u, denoiser(u, time).mean, point) - point.sigma * u
    total = 0.0
    for _ in range(probes):
        z = (2 * rng.integers(2, *residual.shape[1:]) - 1).double()
        (pulled,) = torch.autograd.grad(residual, u, z, retain_graph=True)
        total += float(pulled.square().sum()) / (count * residual[0].numel() * probes)
    return total


untestable(
    CLD,
    "CIFAR-10: FID 2.25 by the flow and 2.23 by the reverse SDE, at most 3.31 bits/dim; 3.07 at 150 evaluations by SSCS, 7.00 by "
    "Euler-Maruyama",
    "tables 1 and 3",
    "needs 800k steps of a network of 108 M parameters (`unnoise train cld --preset paper`)",
)
