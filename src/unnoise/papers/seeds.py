r"""SEEDS: DPM-Solver's twin for the reverse SDE, whose stages share one Brownian path.

    x_s = (sigma_s/sigma_t) e^{-h} x_t + alpha_s sum_k 2 h^{k+1} phi_{k+1}(-2h) x_0^{(k)} + N_s,     h = l_s - l_t
    N_b = (sigma_b/sigma_a) e^{-(l_b - l_a)} N_a + sigma_b sqrt(1 - e^{-2(l_b - l_a)}) z_b           from node to node

with l = log(alpha/sigma). One stage is ancestral sampling; with two, and noises that are one path, the order in law is 2. The
same in the noise, and in EDM's F.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..oracles import gaussian
from ..processes import Gaussian
from ..processes.gaussian import Point
from ..recipe import Sampling
from ..rng import Rng
from ..samplers import SEEDS as Step
from ..samplers import Churn, EulerMaruyama, Flow, Karras, sample
from ..samplers import Step as AnyStep
from ..samplers.noise import Noise
from ..schedules import EDM as Schedule
from ..verify import Finding, check, claim, untestable
from . import paper
from .edm import EDM

VARIABLES = {"data": ("x0", "log-snr"), "noise": ("eps", "log-snr"), "F": ("v", "log-sine")}


@paper(
    "2305.14267",
    "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from Diffusion Models",
    "Martin Gonzalez, Nelson Fernandez, Thuy Tran, Elies Gherbi, Hatem Hajri, Nader Masmoudi",
    2023,
    "NeurIPS 2023",
)
@dataclass(frozen=True)
class SEEDS(EDM):
    """The same training as EDM; exponential solvers of the reverse SDE, of order 2 in law."""

    stages: Literal[1, 2, 3] = 3
    """Evaluations of a step."""
    predict: Literal["data", "noise", "F"] = "data"
    """What is expanded: the clean image, the noise (needs many steps), or what EDM's network predicts."""
    formula: Literal["a", "b"] = "a"
    """The paper's two choices of weights: a, with fewer stages in the end; b, the polynomial through all of them."""
    noise: Literal["gaussian", "rademacher"] = "gaussian"
    """Normal noise, or -1 and 1 with equal probability."""
    eta: float = 1.0
    """Strength of the noise on the variance: 1 the reverse SDE, 0 the flow."""
    sampling_steps: int = 11
    """Steps of the sampler: one evaluation for each stage of each, but for the last."""

    def __post_init__(self) -> None:
        if self.s_churn and self.eta:
            raise UsageProblem("seeds draws the noise of the reverse SDE already; leave s_churn at 0, or set eta to 0")

    @classmethod
    def paper(cls) -> SEEDS:
        """CIFAR-10, class-conditional, 130 evaluations."""
        return replace(super().paper(), sampling_steps=44)

    def sampling(self) -> Sampling:
        variable, coordinate = VARIABLES[self.predict]
        if self.predict == "F" and self.eta == 0:
            coordinate = "log-angle"
        formula = {"a": "dpmsolver", "b": "taylor"}[self.formula]
        scale = self.sigma_data or 0.5
        step = Step(self.stages, variable, coordinate, formula, eta=self.eta, scale=scale, noise=self.noise)
        walker = Churn(step, s_churn=self.s_churn) if self.s_churn else step
        return Sampling(walker, Karras(self.sampling_steps, self.sigma_min))


# Exact checks.


def _levels(*sigma: float) -> list[Point]:
    return Gaussian(Schedule()).points([s / 80 for s in sigma])


@check(
    SEEDS,
    "variance of the noise of a step in data, noise and F prediction, against the closed forms",
    "2.3 to 0.7",
    1e-12,
)
def noise_of_a_step():
    t, s = _levels(2.3, 0.7)
    h, d = s.half_log_snr - t.half_log_snr, 0.5
    closed = {
        "data": 0.7**2 * (1 - math.exp(-2 * h)),
        "noise": 0.7**2 * (math.exp(2 * h) - 1),
        "F": (0.7**2 + d * d) * (2.3**2 - 0.7**2) / (2.3**2 + d * d),
    }
    flows = {name: Flow(*VARIABLES[name], eta=1.0, scale=d) for name in closed}
    return max(abs(flows[name].spread(t, s) ** 2 - value) for name, value in closed.items()), 0.0


@check(
    SEEDS,
    "the noise of a step is that of its parts, carried on, in every variable: largest difference",
    "2.3, 1.1, 0.7",
    1e-12,
)
def noise_of_the_parts():
    t, u, s = _levels(2.3, 1.1, 0.7)
    differences = []
    for eta in (0.3, 1.0, 2.0):
        for variable in ("x0", "eps", "v", "velocity"):
            flow = Flow(variable, eta=eta, scale=0.5)
            parts = (flow.carry(u, s) * flow.spread(t, u)) ** 2 + flow.spread(u, s) ** 2
            differences.append(abs(parts - flow.spread(t, s) ** 2))
    return max(differences), 0.0


@check(SEEDS, "a step in EDM's F: factor on the state and weight of F, against the closed forms", "2.3 to 0.7", 1e-12)
def step_in_f():
    t, s = _levels(2.3, 0.7)
    flow, d, a, b = Flow("v", "log-sine", eta=1.0, scale=0.5), 0.5, 2.3, 0.7

    def clock(u):  # e^{-l} of the paper's second clock
        return u / (d * math.sqrt(u * u + d * d))

    factor = (b * b + d * d) / (a * a + d * d)
    weight = 2 * b * math.sqrt(b * b + d * d) / d * (clock(a) / clock(b) - 1)
    ours = -d * flow.weights([t], t, s)[0]  # v = -d F
    return abs(flow.carry(t, s) - factor) + abs(ours - weight), 0.0


@check(SEEDS, "one stage has the mean and variance of the ancestral step: difference", "SEEDS-1", 1e-12)
def one_stage_is_ancestral():
    t, s = _levels(2.3, 0.7)
    flow, x, x0 = Step(1).flow, torch.tensor([[0.4]]).double(), torch.tensor([[-0.2]]).double()
    law = Gaussian(Schedule()).posterior(x, x0, t, s)
    mean = flow.carry(t, s) * x + flow.weights([t], t, s)[0] * x0
    return float((mean - law.mean).abs().max()) + abs(flow.spread(t, s) - law.std), 0.0


class _Impulses(Rng):
    """Row k of the batch is 1 at draw k - 2 and 0 at all others: the columns of a sampler's linear map."""

    def __init__(self, rows: int):
        super().__init__([])
        self.rows, self.next = rows, 2

    def normal(self, *event: int, dtype: torch.dtype = torch.float64) -> Tensor:
        out = torch.zeros(self.rows, *event, dtype=torch.float64)
        out[self.next] = 1
        self.next += 1
        return out.to(dtype)


def variance_after(step: AnyStep, points: list[Point], variance: float) -> float:
    """Variance after sampling N(0, variance) from its noised law: exactly, as the sampler is affine in its start and draws."""
    denoiser = gaussian(torch.zeros(1, dtype=torch.float64), variance).denoiser(Gaussian(Schedule()))
    rows = 2 + getattr(step, "stages", 1) * len(points)
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[1] = math.sqrt(variance + points[0].sigma ** 2)
    out = sample(denoiser, step, lambda _: points, start.shape, rng=_Impulses(rows), start=start, dtype=torch.float64)
    return float(((out[1:] - out[0]) ** 2).sum())


def order_in_law(step: AnyStep) -> float:
    """Order of the variance on N(0, 1/4), even steps in log-SNR from sigma = 4.5 to 0.2, from 160 steps to 320."""
    errors = []
    for n in (160, 320):
        points = _levels(*(math.exp(1.5 - 3.1 * i / n) for i in range(n + 1)))
        errors.append(abs(variance_after(step, points, 0.25) - 0.25 - points[-1].sigma ** 2))
    return math.log2(errors[0] / errors[1])


class Independent(Step):
    """The ablation: a noise of its own for every stage, and for the step."""

    name = ""

    def disturb(self, added: Tensor | None, noise: Noise, like: Tensor, nodes: list[Point], rng: Rng) -> Tensor:
        return noise.draw(like, nodes[0], nodes[-1], rng)


@check(SEEDS, "order in law of one stage", "weak convergence", tolerance=0.1)
def order_of_one_stage():
    return order_in_law(Step(1)), 1.0


@check(SEEDS, "order in law of two stages", "weak convergence", tolerance=0.1)
def order_of_two_stages():
    return order_in_law(Step(2)), 2.0


@check(SEEDS, "order in law of two stages, the first at 0.8 of the step", "weak convergence", tolerance=0.1)
def order_of_two_stages_elsewhere():
    return order_in_law(Step(2, r1=0.8)), 2.0


@check(SEEDS, "order in law of two stages in the noise", "weak convergence", tolerance=0.1)
def order_of_two_stages_in_noise():
    return order_in_law(Step(2, "eps")), 2.0


@check(SEEDS, "order in law of two stages in EDM's F", "weak convergence", tolerance=0.1)
def order_of_two_stages_in_f():
    return order_in_law(
        Step(2, "v", "log-sine", scale=0.8)
    ), 2.0  # at scale 0.5, the data's own, F is 0 and nothing errs


@check(SEEDS, "order in law of two stages whose noises are independent", "noise decomposition", tolerance=0.1)
def order_of_independent_noises():
    return order_in_law(Independent(2)), 1.0


# Claims. With exact denoisers of Gaussian data, computed; then on the digits with EDM's own networks.

VARIANCES = (0.05, 0.25, 1.0)


def _errors(steps: dict[str, AnyStep], evaluations: int, variance: float) -> dict[str, float]:
    """Relative error of the variance at sigma = 0.01, on the rho = 7 grid from 80, with about these evaluations."""
    found = {}
    for name, step in steps.items():
        points = Karras(evaluations // getattr(step, "stages", 1) + 1, sigma_min=0.01)(Gaussian(Schedule()))[:-1]
        truth = variance + points[-1].sigma ** 2
        found[name] = abs(variance_after(step, points, variance) / truth - 1)
    return found


def _computed(better: AnyStep, worse: AnyStep) -> Finding:
    """Logarithms of the ratio of errors at 30 and 60 evaluations, for three variances of the data."""
    margins, numbers = [], {}
    for variance in VARIANCES:
        for evaluations in (30, 60):
            found = _errors({"first": better, "second": worse}, evaluations, variance)
            margins.append(math.log(found["second"] / found["first"]))
            numbers[f"variance {variance}, {evaluations} evaluations"] = found
    return Finding.computed(margins, {"measure": "relative error of the variance, first and second named", **numbers})


@claim(
    SEEDS,
    "With 30 and 60 evaluations, three stages are nearer the law of Gaussian data than two",
    "figures by evaluations",
)
def three_stages_beat_two(lab) -> Finding:
    return _computed(Step(3), Step(2))


@claim(
    SEEDS,
    "With 30 and 60 evaluations, two stages are nearer the law of Gaussian data than one",
    "figures by evaluations",
)
def two_stages_beat_one(lab) -> Finding:
    return _computed(Step(2), Step(1))


@claim(
    SEEDS,
    "With 30 and 60 evaluations, one stage is nearer the law of Gaussian data than Euler-Maruyama",
    "figures by evaluations",
)
def one_stage_beats_euler(lab) -> Finding:
    return _computed(Step(1), EulerMaruyama())


@claim(
    SEEDS,
    "With 30 and 60 evaluations, noises of one path bring two stages nearer the law than independent ones",
    "noise decomposition",
)
def one_path_beats_independent(lab) -> Finding:
    return _computed(Step(2), Independent(2))


def _pictures(lab, better: tuple[AnyStep, int], worse: tuple[AnyStep, int], count: int = 500) -> Finding:
    """Distances of pictures of two samplers, each with its number of steps, from held-out digits."""
    margins, numbers = [], {}
    for seed in lab.seeds:
        model, held_out = lab.digits(EDM, seed, steps=800), lab.held_out("digits")
        found = [lab.frechet(lab.samples(model, count, Sampling(s, Karras(n))), held_out) for s, n in (better, worse)]
        margins.append(found[1] - found[0])
        numbers[f"seed {seed}"] = dict(zip(("first", "second"), found, strict=True))
    measure = f"frechet[classifier:digits], {count} samples, first and second named"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


@claim(SEEDS, "With 31 evaluations, three stages make better digits than one", "tables of FID by evaluations")
def three_stages_make_better_digits(lab) -> Finding:
    return _pictures(lab, (Step(3), 11), (Step(1), 31))


@claim(SEEDS, "With 31 evaluations, two stages make better digits than one", "tables of FID by evaluations")
def two_stages_make_better_digits(lab) -> Finding:
    return _pictures(lab, (Step(2), 16), (Step(1), 31))


@claim(SEEDS, "With 31 evaluations, one stage makes better digits than Euler-Maruyama", "tables of FID by evaluations")
def one_stage_makes_better_digits(lab) -> Finding:
    return _pictures(lab, (Step(1), 31), (EulerMaruyama(), 31))


@claim(
    SEEDS,
    "Three stages with 31 evaluations make better digits than EDM's stochastic sampler with 93",
    "abstract: 3 to 5 times",
)
def three_times_faster_than_churn(lab) -> Finding:
    return _pictures(lab, (Step(3), 11), (Churn(), 47))


untestable(
    SEEDS,
    "FID 2.24 on CIFAR-10 and 1.93 on CelebA 64x64; the SDE better than the ODE above 100 evaluations",
    "tables of FID by evaluations",
    "the differences are tenths of a FID of networks that take days of a large GPU to train",
)
