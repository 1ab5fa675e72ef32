r"""PNDM: DDIM's step as the thing that classical solvers take averages for.

    phi(x, e, t, s) = alpha_s (x - sigma_t e) / alpha_t + sigma_s e,      x_s = phi(x_t, e_average, t, s)

e_average: Runge-Kutta's of four noises for the first three steps, then Adams-Bashforth's of the last four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..laws import Estimate
from ..oracles import Mixture
from ..processes import Gaussian
from ..recipe import Sampling
from ..rng import Rng, stream
from ..samplers import DDIM, FON, DPMSolverMultistep, Grid, Integers, LogSNR, sample
from ..samplers import PNDM as Step
from ..samplers import Step as AnyStep
from ..schedules import LinearVP
from ..verify import Finding, check, claim, untestable
from . import paper
from .ddpm import DDPM


@paper(
    "2202.09778",
    "Pseudo Numerical Methods for Diffusion Models on Manifolds",
    "Luping Liu, Yi Ren, Zhijie Lin, Zhou Zhao",
    2022,
    "ICLR 2022",
)
@dataclass(frozen=True)
class PNDM(DDPM):
    """The same training as DDPM; classical multistep weights on the noise, carried by DDIM's step."""

    kind: Literal["F", "S", "short"] = "F"
    """F: three Runge-Kutta steps, then 4 noises averaged; S: one improved Euler step, then 2; short: one, then 2, 3, 4."""
    sampling_steps: int = 50
    """Steps of the sampler: 9 evaluations fewer than it costs (F), or 1 (S, short). Best a divisor of the chain's length."""

    def sampling(self) -> Sampling:
        return Sampling(Step(self.kind), Integers(self.sampling_steps, spacing="leading"))


# Exact checks.


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=stream(seed, 41), dtype=torch.float64)


@check(PNDM, "the transfer map, as the paper writes it in alpha-bar, against DDIM's step: difference", "phi", 1e-12)
def transfer_is_ddim():
    process = DDPM().process()
    t, s = process.points([0.7, 0.55])
    x, e, a, b = _random(5), _random(5, seed=1), t.alpha**2, s.alpha**2
    root = math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b)
    written = math.sqrt(b / a) * x - (b - a) / (math.sqrt(a) * root) * e
    ddim = DDIM().law(process, Estimate((x - t.sigma * e) / t.alpha), x, t, s).mean
    return float((written - ddim).abs().max() + (Step().move(x, e, t, s) - ddim).abs().max()), 0.0


@check(PNDM, "a step of any size by the true noise lands on the noised data: difference", "phi", 1e-12)
def true_noise_is_exact():
    t, s = DDPM().process().points([0.95, 0.1])
    x0, e = _random(5), _random(5, seed=1)
    landed = Step().move(t.alpha * x0 + t.sigma * e, e, t, s)
    return float((landed - s.alpha * x0 - s.sigma * e).abs().max()), 0.0


class _NoiseIsRatio(Denoiser):
    """A guess whose noise is sigma/alpha, whatever the state; it counts its calls."""

    def __init__(self):
        super().__init__()
        self.process, self.calls = DDPM().process(), 0

    def forward(self, xt, t, cond=None):
        self.calls += 1
        point = self.process.at(t, xt)
        return Estimate((xt - point.sigma**2 / point.alpha) / point.alpha)


@check(PNDM, "improved Euler is exact for a noise that is linear in sigma/alpha: difference", "phi", 1e-10)
def improved_euler_of_a_line():
    denoiser, x = _NoiseIsRatio(), _random(5, 1)
    t, s = denoiser.process.points([0.7, 0.55])
    moved = sample(denoiser, Step("PIE"), lambda _: [t, s], x.shape, start=x, dtype=torch.float64)
    exact = s.alpha * (x / t.alpha + (s.ratio**2 - t.ratio**2) / 2)
    return float((moved - exact).abs().max()), 0.0


@check(PNDM, "evaluations of 50 steps of F-PNDM, and a thousand times those of S-PNDM", "S-PNDM, F-PNDM", 0.0)
def evaluations():
    counts = []
    for kind in ("F", "S"):
        denoiser = _NoiseIsRatio()
        sample(denoiser, Step(kind), Integers(50, "leading"), (1, 1))
        counts.append(denoiser.calls)
    return counts[0] + 1000 * counts[1], 59 + 1000 * 51


@lru_cache
def _end(step: AnyStep, n: int, low: float) -> Tensor:
    """Where n steps, even in t from 0.9 to `low`, take nine states along the flow of a mixture."""
    data = Mixture(torch.tensor([[-0.8], [0.1], [0.7]]), torch.tensor([[0.1], [0.2], [0.05]]))
    denoiser = data.denoiser(Gaussian(LinearVP()))
    points = denoiser.process.points([0.9 + (low - 0.9) * i / n for i in range(n + 1)])
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    return sample(denoiser, step, lambda _: points, x.shape, start=x, dtype=torch.float64)


def order(step: AnyStep, low: float = 0.05) -> float:
    """Order of convergence from 200 steps to 400."""
    errors = [float((_end(step, n, low) - _end(FON("RK"), 800, low)).norm()) for n in (200, 400)]
    return math.log2(errors[0] / errors[1])


@check(PNDM, "order of S-PNDM", "second-order convergence", tolerance=0.1)
def order_of_s():
    return order(Step("S")), 2.0


@check(PNDM, "order of F-PNDM, however many noises it averages", "second-order convergence", tolerance=0.1)
def order_of_f():
    return order(Step("F")), 2.0


@check(PNDM, "order of the pseudo Runge-Kutta method", "second-order convergence", tolerance=0.1)
def order_of_runge_kutta():
    return order(Step("RK")), 2.0


@check(PNDM, "order of the classical method (FON), which does without phi", "ablation", tolerance=0.2)
def order_of_classical():
    return order(FON(), low=0.2), 4.0


# Claims, on the digits with DDPM's own networks: PNDM trains nothing new.


def exactly(process: Gaussian, grid: Grid) -> LogSNR:
    """A grid of 200 steps between the ends of another: with third order, the exact flow."""
    points = grid(process)
    return LogSNR(200, sigma_min=float(points[-2].ratio), sigma_max=float(points[0].ratio))


@lru_cache(maxsize=256)
def _ends(lab, seed: int, step: AnyStep, grid: Grid) -> Tensor:
    """64 pictures in float32, from the same noise for every sampler."""
    x = Rng.from_seeds(range(64)).normal(1, 8, 8)
    return sample(lab.digits(DDPM, seed).denoiser, step, grid, x.shape, start=x)


def compared(lab, better: dict, worse: dict, factor: float = 1.0) -> Finding:
    """Whether each of `better` is nearer the exact flow than each of `worse`, by a factor: margins in the logarithm.

    Each sampler, a step and a grid, is held against the exact flow from the first point of its grid to the last above clean
    data, where both end with the guess.
    """
    margins, numbers = [], {}
    for seed in lab.seeds:
        process, found = lab.digits(DDPM, seed).denoiser.process, {}
        for name, (step, grid) in {**better, **worse}.items():
            exact = _ends(lab, seed, DPMSolverMultistep(3), exactly(process, grid))
            found[name] = float((_ends(lab, seed, step, grid) - exact).square().mean().sqrt())
        margins.append(min(math.log(found[w] / found[b] / factor) for b in better for w in worse))
        numbers[f"seed {seed}"] = found
    measure = "RMS distance of 64 pictures to the exact flow's from the same noise; margins are logarithms of ratios"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


def _leading(steps: int) -> Integers:
    return Integers(steps, spacing="leading")


DDIM_25 = {"DDIM, 25 evaluations": (DDIM(), _leading(25))}


@claim(PNDM, "S-PNDM with 21 evaluations is closer to the exact flow than DDIM with 25", "tables of FID by steps")
def two_noises_beat_ddim(lab) -> Finding:
    return compared(lab, {"S-PNDM, 21 evaluations": (Step("S"), _leading(20))}, DDIM_25)


@claim(PNDM, "F-PNDM with 19 evaluations is closer to the exact flow than DDIM with 25", "tables of FID by steps")
def four_noises_beat_ddim(lab) -> Finding:
    return compared(lab, {"F-PNDM, 19 evaluations": (Step("F"), _leading(10))}, DDIM_25)


@claim(PNDM, "50 steps of F-PNDM are closer to the exact flow than 250 steps of DDIM", "abstract")
def fifty_steps_against_250(lab) -> Finding:
    ours, theirs = (Step("F"), _leading(50)), (DDIM(), _leading(250))
    return compared(lab, {"F-PNDM, 59 evaluations": ours}, {"DDIM, 250 evaluations": theirs})


@claim(
    PNDM, "The classical fourth-order method (FON) with 19 evaluations is farther from the flow than DDIM", "ablation"
)
def classical_method_is_worse(lab) -> Finding:
    return compared(
        lab,
        {"DDIM, 20 evaluations": (DDIM(), _leading(20))},
        {"FON, 19 evaluations": (FON("F"), _leading(10))},
    )


@claim(
    PNDM,
    "Per evaluation, Runge-Kutta all the way is farther from the flow than the multistep method (41 evaluations, S-PNDM)",
    "linear multistep methods need one evaluation a step",
)
def multistep_beats_runge_kutta(lab) -> Finding:
    return compared(
        lab,
        {"S-PNDM, 41 evaluations": (Step("S"), _leading(40))},
        {"PRK, 41 evaluations": (Step("RK"), _leading(11))},
    )


def _pictures(lab, kind: Literal["F", "S"], steps: int) -> Finding:
    """How much nearer the held-out digits than DDIM's with 25 evaluations the pictures of PNDM are."""
    margins, numbers = [], {}
    cases = {"PNDM": (Step(kind), _leading(steps)), **DDIM_25}
    for seed in lab.seeds:
        model, held_out = lab.digits(DDPM, seed), lab.held_out("digits")
        found = {name: lab.frechet(lab.samples(model, 400, Sampling(*pair)), held_out) for name, pair in cases.items()}
        ours, ddim = found.values()
        margins.append(ddim - ours)
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "frechet[classifier:digits], 400 samples", **numbers})


@claim(PNDM, "S-PNDM with 21 evaluations makes better pictures than DDIM with 25", "tables of FID by steps")
def two_noises_make_better_pictures(lab) -> Finding:
    return _pictures(lab, "S", 20)


@claim(PNDM, "F-PNDM with 19 evaluations makes better pictures than DDIM with 25", "tables of FID by steps")
def four_noises_make_better_pictures(lab) -> Finding:
    return _pictures(lab, "F", 10)


untestable(
    PNDM,
    "CIFAR-10 FID 3.26 and CelebA 2.71; 50 steps give a FID 0.4 better than 250 steps of DDIM, as good as 1000 steps",
    "abstract",
    "needs the published networks, which take days of a large GPU to train",
)
