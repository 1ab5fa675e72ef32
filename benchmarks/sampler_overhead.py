"""What a step of a sampler costs beside the network: ours, a bare loop with the same arithmetic, and diffusers.

The denoiser is x * 0.9. All sides run in turn within each round; medians over the rounds, in microseconds a step, of a whole
walk of 50 steps: ours with its grid, diffusers' without its `set_timesteps`. One thread, timed by its own processor clock, so
that neighbours on the machine count less. Where a method draws noise, all sides do: ours from one stream for each example,
the others by one `torch.randn`.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from unnoise.denoisers import Denoiser
from unnoise.laws import Estimate
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.runtime import tune_allocator
from unnoise.samplers import (
    DDIM,
    Ancestral,
    Churn,
    DPMSolverMultistep,
    DPMSolverPlus,
    Euler,
    Heun,
    Integers,
    Karras,
    SDEDPMSolverMultistep,
    sample,
)
from unnoise.schedules import EDM, FromBetas, linear_betas
from unnoise.training import provenance

STEPS = 50
SHAPES = ((1, 3, 32, 32), (64, 3, 32, 32))
TARGETS = {SHAPES[0]: 60.0, SHAPES[1]: 100.0}  # microseconds a step above the bare loop

Walk = Callable[[Tensor], Tensor]


class Trivial(Denoiser):
    def __init__(self, process: Gaussian):
        super().__init__()
        self.process = process

    def forward(self, xt, t, cond=None):
        return Estimate(xt * 0.9)


CHAIN, SIGMA = Trivial(Gaussian(FromBetas(linear_betas(1000)))), Trivial(Gaussian(EDM()))
NOISE_LEVELS = [point.ratio for point in Karras(STEPS)(SIGMA.process)]
ABAR = [point.alpha**2 for point in Integers(STEPS, "leading")(CHAIN.process)]


def ours(denoiser, step, grid) -> Walk:
    return lambda x: sample(denoiser, step, grid, x.shape, start=x, rng=Rng.from_seeds(range(len(x))))


def euler_step(x: Tensor, t: float, s: float) -> Tensor:
    return x + (s - t) * ((x - x * 0.9) / t)


def heun_step(x: Tensor, t: float, s: float) -> Tensor:
    d = (x - x * 0.9) / t
    trial = x + (s - t) * d
    return x + (s - t) * ((d + (trial - trial * 0.9) / s) / 2) if s > 0 else trial


def churn_step(x: Tensor, t: float, s: float) -> Tensor:
    if not 0.05 <= t <= 50:
        return heun_step(x, t, s)
    raised = t * (1 + min(40 / STEPS, math.sqrt(2) - 1))
    return heun_step(x + math.sqrt(raised**2 - t**2) * 1.003 * torch.randn(x.shape), raised, s)


def ddim_step(x: Tensor, a: float, p: float) -> Tensor:
    x0 = x * 0.9
    eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    return math.sqrt(p) * x0 + math.sqrt(1 - p) * eps


def ddpm_step(x: Tensor, a: float, p: float) -> Tensor:
    x0, ratio = x * 0.9, a / p
    mean = math.sqrt(p) * (1 - ratio) / (1 - a) * x0 + math.sqrt(ratio) * (1 - p) / (1 - a) * x
    return mean + math.sqrt((1 - p) / (1 - a) * (1 - ratio)) * torch.randn(x.shape) if p < 1 else mean


def multistep_walk(noisy: bool) -> Walk:
    """DPM-Solver++(2M) along noise levels, or its SDE version, with alpha = 1: lambda = -log sigma."""

    def walk(x: Tensor) -> Tensor:
        before, h_before = None, 0.0
        for t, s in pairwise(NOISE_LEVELS):
            x0 = x * 0.9
            if s == 0:
                return x0
            h, guess = math.log(t / s), x0
            if before is not None:
                guess = torch.lerp(x0, before, -h / (2 * h_before))
            if noisy:
                x = math.exp(-2 * h) * x + -math.expm1(-2 * h) * guess
                x = x + s * math.sqrt(-math.expm1(-2 * h)) * torch.randn(x.shape)
            else:
                x = math.exp(-h) * x + -math.expm1(-h) * guess
            before, h_before = x0, h
        return x

    return walk


def single_step(x: Tensor, t: float, s: float) -> Tensor:
    """DPM-Solver++(2S), with alpha = 1."""
    x0 = x * 0.9
    if s == 0:
        return x0
    h = math.log(t / s)
    trial = math.exp(-h / 2) * x + -math.expm1(-h / 2) * x0
    return math.exp(-h) * x + -math.expm1(-h) * (trial * 0.9)


def bare(step: Callable[[Tensor, float, float], Tensor], levels: list[float]) -> Walk:
    """A step's arithmetic along levels, and nothing else."""

    def walk(x: Tensor) -> Tensor:
        for t, s in pairwise(levels):
            x = step(x, t, s)
        return x

    return walk


def diffusers_walk(name: str, **options) -> Walk:
    import diffusers

    scheduler = getattr(diffusers, name)(**options)

    def walk(x: Tensor) -> Tensor:
        for t in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, t) * 0.9, t, x).prev_sample
        return x

    walk.prepare = lambda: scheduler.set_timesteps(STEPS)  # type: ignore[attr-defined]  # outside of the clock
    return walk


def sides() -> dict[str, dict[str, Walk]]:
    karras, leading = Karras(STEPS), Integers(STEPS, "leading")
    along_sigma = {"euler": (euler_step, Euler()), "heun": (heun_step, Heun()), "churn": (churn_step, Churn())}
    along_chain = {"ddim": (ddim_step, DDIM()), "ddpm": (ddpm_step, Ancestral())}
    found = {
        **{n: {"bare": bare(f, NOISE_LEVELS), "unnoise": ours(SIGMA, s, karras)} for n, (f, s) in along_sigma.items()},
        **{n: {"bare": bare(f, ABAR), "unnoise": ours(CHAIN, s, leading)} for n, (f, s) in along_chain.items()},
    }
    for name, noisy, step in (("2m", False, DPMSolverMultistep()), ("sde 2m", True, SDEDPMSolverMultistep())):
        found[name] = {"bare": multistep_walk(noisy), "unnoise": ours(SIGMA, step, karras)}
    found["2s"] = {"bare": bare(single_step, NOISE_LEVELS), "unnoise": ours(SIGMA, DPMSolverPlus(), karras)}
    found["2m"]["diffusers"] = diffusers_walk("EDMDPMSolverMultistepScheduler")
    found["euler"]["diffusers"] = diffusers_walk("EDMEulerScheduler")
    found["heun"]["diffusers"] = diffusers_walk("HeunDiscreteScheduler")
    found["ddim"]["diffusers"] = diffusers_walk("DDIMScheduler", clip_sample=False)
    found["ddpm"]["diffusers"] = diffusers_walk("DDPMScheduler", clip_sample=False)
    return found


@torch.no_grad()
def measure(walks: dict[str, Walk], shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Median microseconds a step of each side, taken in turn, and of our excess over the bare loop of the same round."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    seen: dict[str, list[float]] = {name: [] for name in walks}
    for i in range(rounds + 2):  # the first two warm up
        for name, walk in walks.items():
            getattr(walk, "prepare", lambda: None)()
            start = time.thread_time()
            walk(x)
            elapsed = time.thread_time() - start
            if i >= 2:
                seen[name].append(elapsed / STEPS * 1e6)
    seen["over"] = [a - b for a, b in zip(seen["unnoise"], seen["bare"], strict=True)]
    return {name: statistics.median(values) for name, values in seen.items()}


def run(rounds: int) -> list[dict]:
    rows = []
    for shape in SHAPES:
        for sampler, walks in sides().items():
            row = measure(walks, shape, rounds)
            target = TARGETS[shape]
            rows.append({"sampler": sampler, "shape": shape, **row, "target": target, "met": row["over"] <= target})
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        f"{'sampler':8} {'shape':14} {'bare':>8} {'unnoise':>8} {'over':>8} {'target':>7} {'diffusers':>10}   us a step"
    ]
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        theirs = f"{row['diffusers']:10.0f}" if "diffusers" in row else f"{'':>10}"
        lines.append(
            f"{row['sampler']:8} {shape:14} {row['bare']:8.0f} {row['unnoise']:8.0f} {row['over']:8.0f} {row['target']:7.0f} "
            f"{theirs}   {'met' if row['met'] else 'NOT MET'}"
        )
    return "\n".join(lines)


def main(path: Path, rounds: int = 15) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    rows = run(rounds)
    print(table(rows))
    path.write_text(json.dumps({**provenance(), "steps": STEPS, "rounds": rounds, "rows": rows}, indent=1) + "\n")
