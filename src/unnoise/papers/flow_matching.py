r"""Flow matching: regress the velocity of a path you choose from noise to data; straight paths need the fewest evaluations.

x_t = alpha x_0 + sigma eps,   u = alpha' x_0 + sigma' eps,   L = E |v(x_t, t) - u|^2,   dx/dt = v(x, t)

"ot": alpha = 1 - t, sigma = sigma_min + (1 - sigma_min) t;   "vp": the variance-preserving diffusion. Here t = 0 is data, in the
paper t = 1 is. Beyond the paper: noise coupled with data by optimal transport in the batch (OT-CFM, 2302.00482), or by a flow
that was trained before (reflow, 2209.03003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..couplings import Coupling, Pairs, Replayed, minibatch_optimal
from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..likelihood import Flow, likelihood
from ..networks import published
from ..objectives import Matching, Objective, Uniform
from ..oracles import Mixture, gaussian
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import RK45, Euler, Heun, sample
from ..samplers import Uniform as Grid
from ..schedules import LinearVP, Rectified
from ..training import Run
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper

PAIRS = 4096
"""Pairs that reflow simulates."""


@paper(
    "2210.02747",
    "Flow Matching for Generative Modeling",
    "Yaron Lipman, Ricky T. Q. Chen, Heli Ben-Hamu, Maximilian Nickel, Matt Le",
    2023,
    "ICLR 2023",
)
@dataclass(frozen=True)
class FlowMatching(Recipe):
    """Regress the velocity of straight paths from noise to data: likelihood and samples by one short flow."""

    path: Literal["ot", "vp"] = "ot"
    """Straight, or the variance-preserving diffusion's."""
    sigma_min: float = 0.0
    """Noise left at the data's end of the straight path."""
    coupling: Literal["independent", "optimal", "reflow"] = "independent"
    """Noise drawn for itself, dealt out by optimal transport within the batch, or joined to data by the flow of `teacher`."""
    teacher: str = ""
    """The run folder whose flow reflow straightens."""
    sampling_steps: int = 20
    """Steps of Heun's method; 0 for the adaptive Dormand-Prince method of the paper, to 1e-5."""

    def __post_init__(self) -> None:
        if (self.coupling == "reflow") != bool(self.teacher):
            raise UsageProblem(
                "reflow straightens the flow of a run: give both --coupling reflow and --teacher RUN, or neither"
            )

    @classmethod
    def paper(cls) -> FlowMatching:
        """CIFAR-10, the straight path: 2.99 bits/dim, FID 6.35 with 142 evaluations."""
        return cls(
            data="cifar10",
            sampling_steps=0,
            network=published.FLOW_MATCHING_CIFAR10,
            training=replace(
                PUBLISHED,
                steps=391_000,
                batch_size=256,
                lr=5e-4,
                warmup=45_000,
                decay="linear",
                clip=None,
                precision="fp32",
            ),
        )

    def fitted(self, data: Any) -> FlowMatching:
        if self.teacher:
            Run.open(self.teacher)  # a teacher that is missing is told before anything is written
        return self

    def process(self) -> Gaussian:
        return Gaussian(Rectified(self.sigma_min) if self.path == "ot" else LinearVP())

    def denoiser(self, spec: Spec) -> Denoiser:
        return NetworkDenoiser(self.build_network(spec), self.process(), pre.Raw("velocity"))

    def objective(self, spec: Spec) -> Objective:
        # both paths' velocities divide by sigma, which is 0 at t = 0
        return Matching("velocity", Uniform(1e-5), coupling=self._coupling())

    def _coupling(self) -> Coupling | None:
        if self.coupling == "reflow":
            return Replayed(lambda: replay(self.teacher))
        return minibatch_optimal if self.coupling == "optimal" else None

    def sampling(self) -> Sampling:
        if self.sampling_steps:
            return Sampling(Heun(), Grid(self.sampling_steps))
        return Sampling(RK45(), Grid(2, end=1e-5))


def replay(teacher: str) -> Pairs:
    """What the flow of a run folder makes of `PAIRS` noises: pictures, their labels if it has any, and the noises."""
    from ..model import Model

    model = Model.load(teacher)
    seeds = range(PAIRS)
    data = torch.cat([model.sample(seeds[i : i + 256], Sampling(Heun(), Grid(16))) for i in range(0, PAIRS, 256)])
    noise = model.denoiser.process.prior(data.shape).sample(Rng.from_seeds(seeds))
    return data, model.labels(seeds), noise


# Exact checks.


@check(
    FlowMatching,
    "velocity of the straight path with sigma_min = 0.1, x_0 = 2, eps = -1: -x_0 + (1 - sigma_min) eps",
    "exact",
    1e-12,
)
def velocity_of_the_straight_path():
    process = Gaussian(Rectified(0.1))
    t, x0, eps = (
        process.point(0.3),
        torch.tensor([[2.0]], dtype=torch.float64),
        torch.tensor([[-1.0]], dtype=torch.float64),
    )
    return process.velocity(t.alpha * x0 + t.sigma * eps, x0, t).item(), -2.0 - 0.9


@check(
    FlowMatching,
    "velocity of the VP path: the drift less half g^2 times the score, at t = 0.4 for N(0.3, 1/4) data",
    "exact",
    1e-10,
)
def velocity_is_the_flows():
    process, data = Gaussian(LinearVP()), gaussian(torch.tensor([0.3], dtype=torch.float64), 0.25)
    t, x = process.point(0.4), torch.tensor([[0.7]], dtype=torch.float64)
    mean, variance = 0.3 * t.alpha, 0.25 * t.alpha**2 + t.sigma**2
    beta = 0.1 + 0.4 * 19.9
    expected = -0.5 * beta * (0.7 + -(0.7 - mean) / variance)
    guess = data.denoiser(process)(x, torch.tensor([0.4], dtype=torch.float64)).mean
    return process.velocity(x, guess, t).item(), expected


@check(FlowMatching, "the flow of N(1/2, 1/9) data takes the noise 1.5 to 1/2 + 1.5/3", "exact", 1e-6)
def flow_of_a_gaussian():
    data = gaussian(torch.tensor([0.5], dtype=torch.float64), 1 / 9)
    start = torch.tensor([[1.5]], dtype=torch.float64)
    step = RK45(atol=1e-10, rtol=1e-10)
    denoiser = data.denoiser(Gaussian(Rectified()))
    end = sample(denoiser, step, lambda p: p.points([1.0, 1e-9]), (1, 1), start=start, dtype=torch.float64)
    return end.item(), 1.0


@check(FlowMatching, "log-density of the straight flow of a mixture of two at 0.2, nats", "exact", 1e-5)
def likelihood_of_a_mixture():
    data = Mixture(
        torch.tensor([[-0.5], [0.5]], dtype=torch.float64), torch.tensor([[0.04], [0.09]], dtype=torch.float64)
    )
    x = torch.tensor([[0.2]], dtype=torch.float64)
    found = likelihood(
        data.denoiser(Gaussian(Rectified())), x, Flow(tolerance=1e-8, start=1e-7), rng=Rng.from_seeds([0])
    )
    normal = [
        math.exp(-((0.2 - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v) for m, v in ((-0.5, 0.04), (0.5, 0.09))
    ]
    return -found.nats.item(), math.log(sum(normal) / 2)


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 1000 steps of 64 images.


def _model(lab, seed, **options):
    return lab.digits(FlowMatching, seed, steps=1000, small=True, **options)


def _distances(lab, model, steps):
    """Distance to held-out digits of 400 samples by so many steps of Euler's method."""
    held_out = lab.held_out("digits")
    return {n: lab.sliced(lab.samples(model, 400, Sampling(Euler(), Grid(n))), held_out) for n in steps}


@claim(
    FlowMatching, "With 4, 8 and 16 evaluations the straight path samples better than the diffusion's", "section 6.2"
)
def straight_samples_better(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = {path: _distances(lab, _model(lab, seed, path=path), (4, 8, 16)) for path in ("ot", "vp")}
        margins.append(min(found["vp"][n] - found["ot"][n] for n in (4, 8, 16)))
        numbers[f"seed {seed}"] = {f"{path}, {n} steps": v for path, row in found.items() for n, v in row.items()}
    return Finding.over_seeds(margins, {"measure": "sliced_wasserstein[pixels], 400 samples, Euler", **numbers})


@claim(
    FlowMatching,
    "With 8, 16 and 32 evaluations the straight path's flow is nearer to its own limit than the diffusion's",
    "figure 7",
)
def straight_needs_fewer(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = {}
        for path in ("ot", "vp"):
            model = _model(lab, seed, path=path)
            fine = lab.samples(model, 64, Sampling(Heun(), Grid(200)))
            for n in (8, 16, 32):
                coarse = lab.samples(model, 64, Sampling(Heun(), Grid(n // 2)))
                found[path, n] = float((coarse - fine).square().mean().sqrt())
        margins.append(min(found["vp", n] - found["ot", n] for n in (8, 16, 32)))
        numbers[f"seed {seed}"] = {f"{path}, {n} evaluations": v for (path, n), v in found.items()}
    return Finding.over_seeds(margins, {"measure": "RMSE of 64 pictures to those of 200 steps, Heun", **numbers})


@claim(
    FlowMatching,
    "On the straight path the same network, after the same training, gives fewer bits per dimension than on the diffusion's",
    "table 1",
)
def straight_gives_fewer_bits(lab) -> Finding:
    x0, method, found = lab.held_out("digits")[:128], Flow(divergence="rademacher", tolerance=1e-4), {}
    for path in ("ot", "vp"):
        rows = [likelihood(_model(lab, seed, path=path), x0, method) for seed in lab.seeds]
        found[path] = [float(row.bits.mean()) for row in rows]
        found[f"{path}, evaluations"] = [float(row.evaluations.double().mean()) for row in rows]
    margins = [a - b for a, b in zip(found["vp"], found["ot"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "bits/dim of 128 held-out digits, uniformly dequantised", **found})


@claim(FlowMatching, "More dequantisations in the importance-weighted bound give fewer bits per dimension", "table 4")
def more_dequantisations_give_fewer_bits(lab) -> Finding:
    x0 = lab.held_out("digits")[:64]
    found: dict[str, list[float]] = {}
    for k in (1, 8):
        method = Flow(divergence="rademacher", tolerance=1e-3, draws=k)
        found[f"K = {k}"] = [float(likelihood(_model(lab, seed), x0, method).bits.mean()) for seed in lab.seeds]
    margins = [a - b for a, b in zip(*found.values(), strict=True)]
    return Finding.over_seeds(margins, {"measure": "bits/dim of 64 held-out digits", **found})


def _bend(model) -> float:
    """How far from straight a flow runs: E |v(x_t, t) - (x_1 - x_0)|^2 per number, along 64 walks of 50 Euler steps."""
    states: list[Tensor] = []
    shape = (64, *model.spec.shape)
    sample(model.denoiser, Euler(), Grid(50), shape, watch=lambda i, point, x: states.append(x.double()))
    walk = torch.stack(states)
    velocity = (walk[:-1] - walk[1:]) * 50
    return float((velocity - (walk[0] - walk[-1])).square().mean())


@claim(
    FlowMatching,
    "Optimal transport within the batch straightens the flow, and betters samples of 4 evaluations",
    "2302.00482",
)
def transport_straightens(lab) -> Finding:
    return _straighter(lab, lambda seed: _model(lab, seed, coupling="optimal"), steps=4)


@claim(FlowMatching, "Reflow once straightens the flow, and betters samples of 2 evaluations", "2209.03003")
def reflow_straightens(lab) -> Finding:
    def again(seed):
        return _model(lab, seed, coupling="reflow", teacher=str(_model(lab, seed).path))

    return _straighter(lab, again, steps=2)


def _straighter(lab, other, steps: int) -> Finding:
    """Both of: a smaller bend, and a smaller distance, than independent coupling; each relative to it."""
    margins, numbers = [], {}
    for seed in lab.seeds:
        row = {}
        for name, model in (("independent", _model(lab, seed)), ("coupled", other(seed))):
            row[name] = {"bend": _bend(model), "distance": _distances(lab, model, (steps,))[steps]}
        margins.append(min(1 - row["coupled"][k] / row["independent"][k] for k in ("bend", "distance")))
        numbers[f"seed {seed}"] = row
    measure = f"bend: E |v - (x_1 - x_0)|^2 per number; distance: sliced_wasserstein[pixels], 400 samples, {steps} steps of Euler"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


untestable(
    FlowMatching,
    "CIFAR-10: 2.99 bits/dim and FID 6.35 with 142 evaluations, against 3.10, 8.06 and 183 on the diffusion's path",
    "table 1",
    "needs 391k steps of 256 images through ADM's U-Net (`unnoise train flow-matching --preset paper`)",
)
