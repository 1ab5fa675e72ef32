r"""Consistency trajectory models: one network for every jump along a diffusion's flow, taught by a diffusion model.

G(x_t, t, s) = (s/t) x_t + (1 - s/t) g(x_t, t, s),    g(x_t, t, t) = E[x_0 | x_t]

So G(x_t, t, t) = x_t whatever the network, and at s = t it is the diffusion's denoiser: every solver runs on it unchanged. A jump
is right if it ends where the teacher's solver, and a shorter jump, end (`objectives/consistency.py`). Sampled by one jump, by
several (gamma = 0), or by jumps too far with noise added back, up to consistency models' multistep sampling (gamma = 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser, Jumping, jump
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..networks import UNetOptions, published
from ..networks.discriminator import DiscriminatorOptions
from ..objectives import Consistency, HalfLogNormal, Matching
from ..objectives.consistency import inherit
from ..oracles import GaussianFlow, Mixture, gaussian
from ..processes import Gaussian
from ..recipe import LAPTOP_TRAINING, Recipe, Sampling, Spec, Training
from ..rng import Rng
from ..samplers import DDIM, Gamma, Heun, Jumps, Karras, Solved, sample
from ..schedules import EDM as Schedule
from ..training import Run
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper
from .edm import EDM


@paper(
    "2310.02279",
    "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion",
    "Dongjun Kim, Chieh-Hsin Lai, Wei-Hsiang Liao, Naoki Murata, Yuhta Takida, Toshimitsu Uesaka, Yutong He, Yuki Mitsufuji, "
    "Stefano Ermon",
    2024,
    "ICLR 2024",
)
@dataclass(frozen=True)
class CTM(Recipe):
    """Any-to-any jumps along a teacher's flow: samples in one or two evaluations, and still a diffusion model."""

    conditional: bool = True
    teacher: str = ""
    """A run folder of edm to learn from, whose network and noise it then has; trained first, within this run, if not given."""
    teacher_training: TrainingOptions = replace(LAPTOP_TRAINING, steps=800, lr=2e-3)
    """How the teacher is trained where none is given."""
    levels: int = 18
    """Noise levels between which it learns to jump: Karras's, from sigma_max to sigma_min."""
    solver_steps: int = 5
    """Most steps of the teacher's solver, Heun's, from t to u."""
    horizon: Literal["soft", "local", "global"] = "soft"
    """Where the teacher's steps end: a random number of levels below t, one below, or at s."""
    anywhere: bool = True
    """Whether it learns jumps to every s; if not, to the end of time alone (consistency distillation)."""
    denoising: bool = True
    """Whether g(x_t, t, t) learns to denoise besides."""
    adversary: bool = False
    """Whether a critic, trained in turns, judges where jumps end."""
    critic: DiscriminatorOptions = field(default_factory=DiscriminatorOptions)
    distance: Literal["huber", "l2"] = "huber"
    """How far apart two ends are. The paper's LPIPS needs a network trained on ImageNet."""
    target_decay: float = 0.95
    """What the target, an average of the weights, remembers at each step."""
    sigma_data: float | None = None
    """Standard deviation of the data in [-1, 1]; measured if not given (the paper: 0.5)."""
    sigma_min: float = 0.002
    """Noise level at which time ends."""
    sigma_max: float = 80.0
    """Largest noise level."""
    sampling_steps: int = 2
    """Jumps, each one evaluation."""
    gamma: float = 0.0
    """How much of each level's noise is drawn anew: 0 none, 1 all."""
    training: Training = replace(LAPTOP_TRAINING, steps=280, lr=1e-3, warmup=50, ema=3_000)

    presets = ("laptop", "paper", "paper-64")

    @classmethod
    def paper(cls) -> CTM:
        """CIFAR-10, unconditional, without the discriminator: FID 5.19 with 1 evaluation, 3.00 with 18. A warm-up stands for
        RAdam's, and pseudo-Huber's distance for LPIPS."""
        return cls(
            data="cifar10",
            conditional=False,
            network=published.EDM_DDPMPP_CIFAR10,
            teacher_training=EDM.paper().training,
            sigma_data=0.5,
            solver_steps=17,
            target_decay=0.999,
            training=replace(
                PUBLISHED, steps=100_000, batch_size=256, lr=4e-4, warmup=2000, clip=None, ema=177_000, precision="fp32"
            ),
        )

    @classmethod
    def paper_64(cls) -> CTM:
        """ImageNet 64x64, class-conditional, before its stage with a discriminator."""
        cifar = cls.paper()
        return replace(
            cifar,
            data="hf:ILSVRC/imagenet-1k",
            conditional=True,
            network=published.ADM_IMAGENET64,
            teacher_training=replace(
                cifar.teacher_training, batch_size=4096, steps=610_000, lr=1e-4, warmup=2_441, ema=50_000_000
            ),
            levels=40,
            solver_steps=39,
            training=replace(cifar.training, steps=30_000, batch_size=2048, ema=1_419_000, precision="bf16"),
        )

    def fitted(self, data: Any) -> CTM:
        """With the teacher's network and noise, where one is given."""
        if not self.teacher:
            return self
        from ..model import described

        taught, spec = described(Run.open(self.teacher))
        if not isinstance(taught, EDM) or taught.preconditioning != "edm":
            raise UsageProblem(
                f"{self.teacher} is a run of {taught.slug}, and ctm learns from edm in EDM's preconditioning; give such a run"
            )
        return replace(
            self,
            conditional=taught.conditional,
            network=taught.network,
            sigma_data=taught.sigma_data or spec.std,
            sigma_max=taught.sigma_max,
        )

    def earlier(self) -> Mapping[str, Recipe | str]:
        if self.teacher:
            return {"teacher": self.teacher}
        own = EDM(
            data=self.data,
            conditional=self.conditional,
            flip=self.flip,
            network=self.network,
            sigma_data=self.sigma_data,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            training=replace(self.teacher_training, seed=self.training.seed),
        )
        return {"teacher": own}

    def receive(self, stages: Mapping[str, Any], denoiser: Any, objective: Any, data: Any) -> None:
        """The student and its target begin as the teacher."""
        teaching: Any = getattr(objective, "objective", objective)
        teacher = stages["teacher"].denoiser
        teaching.teacher.load_state_dict(teacher.state_dict())
        for pupil in (denoiser, teaching.target):
            inherit(pupil.network, teacher.network)
        teaching.target.load_state_dict(denoiser.state_dict())

    def process(self) -> Gaussian:
        return Gaussian(Schedule(self.sigma_max))

    def denoiser(self, spec: Spec) -> Denoiser:
        network = replace(self.network, augment=0, dropout=0.0, second_time=True)
        built = replace(self, network=network).build_network(spec)
        return Jumping(built, self.process(), pre.EDM(self.sigma_data or spec.std), self.sigma_min / self.sigma_max)

    def objective(self, spec: Spec) -> Consistency:
        teacher = self.earlier()["teacher"]
        if isinstance(teacher, str):
            from ..model import described

            teacher = described(Run.open(teacher))[0]
        denoising = Matching("F", HalfLogNormal(sigma_min=self.sigma_min, sigma_max=self.sigma_max))
        return Consistency(
            teacher.denoiser(spec),
            self.denoiser(spec),
            Karras(self.levels, self.sigma_min, self.sigma_max),
            self.solver_steps,
            denoising if self.denoising else None,
            self.horizon,
            self.anywhere,
            self.distance,
            self.target_decay,
            self.critic.build(spec.shape[0]) if self.adversary else None,
        )

    def sampling(self) -> Sampling:
        return Sampling(Gamma(self.gamma), Jumps(self.sampling_steps, self.sigma_min))


# Exact checks, on data whose jumps are known in closed form: N(0.3, 1/4) in EDM's time.

DATA = torch.tensor([0.3], dtype=torch.float64), 0.25


def _levels(*sigmas: float) -> list[Tensor]:
    return [torch.tensor([sigma / 80], dtype=torch.float64) for sigma in sigmas]


def _state(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@check(CTM, "G(4, 3, 1/2) of N(0.3, 1/4): 0.3 + sqrt((1/4 + 1/4) / (1/4 + 9)) 3.7, through g", "2310.02279", 1e-12)
def exact_jump():
    t, s = _levels(3.0, 0.5)
    found = jump(GaussianFlow(*DATA, Gaussian(Schedule())), _state(4.0), t, s)
    return found.item(), 0.3 + math.sqrt(0.5 / 9.25) * 3.7


@check(CTM, "the same by 400 steps of Heun's method on the exact denoiser", "2310.02279", 2e-6)
def solved_jump():
    t, s = _levels(3.0, 0.5)
    oracle = gaussian(*DATA).denoiser(Gaussian(Schedule()))
    return Solved(oracle, 400).jump(_state(4.0), t, s).item(), 0.3 + math.sqrt(0.5 / 9.25) * 3.7


@check(CTM, "order of the teacher's jump in its steps, of a mixture of two from sigma = 10 to 0.1", "2310.02279", 0.1)
def order_of_the_teacher():
    data = Mixture(torch.tensor([[-1.0], [0.6]]), torch.tensor([[0.2], [0.1]]))
    oracle, (t, s) = data.denoiser(Gaussian(Schedule())), _levels(10.0, 0.1)
    ends = {n: Solved(oracle, n).jump(_state(2.5), t, s).item() for n in (40, 80, 2000)}
    return math.log2(abs(ends[40] - ends[2000]) / abs(ends[80] - ends[2000])), 2.0


@check(CTM, "g(x, t, s) as s goes to t: the denoiser 0.3 + 1/4 / (1/4 + 9) 3.7", "2310.02279", 1e-7)
def guess_at_no_distance():
    t, s = _levels(3.0, 3.0 - 1e-7)
    guess = GaussianFlow(*DATA, Gaussian(Schedule()))(_state(4.0), t, {"toward": s}).mean
    return guess.item(), 0.3 + 0.25 / 9.25 * 3.7


@check(CTM, "an untrained network: G(x, t, t) - x", "2310.02279", 0.0)
def no_distance_is_no_jump():
    denoiser = CTM(network=UNetOptions(channels=32, mult=(1,), blocks=1, attention=())).denoiser(
        Spec((1, 8, 8), tuple("ab"))
    )
    torch.nn.init.ones_(denoiser.network.head.weight)  # type: ignore[union-attr]
    x, t = Rng.from_seeds([0]).normal(1, 8, 8), _levels(3.0)[0]
    with torch.no_grad():
        return float((jump(denoiser, x, t, t) - x).abs().max()), 0.0


@check(CTM, "the consistency loss where student, target and teacher are exact", "2310.02279", 1e-9)
def loss_of_exact_jumps():
    flow = GaussianFlow(*DATA, Gaussian(Schedule()))

    class Exact(Consistency):
        """With a teacher that needs no solver."""

        def aim(self, denoiser, xt, t, u, s, steps, cond):
            near = jump(flow, jump(flow, xt, t, u), u, s)
            return jump(flow, near, s, torch.full_like(t, 0.002 / 80))

    objective = Exact(flow, flow, Karras(18), 17, None, distance="l2")
    x0 = gaussian(*DATA).sample(rng := Rng.for_step(0, 0, range(64)))
    return float(objective(flow, x0, None, rng).per_example.sqrt().max()), 0.0


@check(CTM, "with gamma = 1/2, three jumps from N(0.3, 1/4 + 80^2) leave the variance at 1/4", "2310.02279", 1e-9)
def gamma_keeps_the_variance():
    # The map is affine: its variance is the sum of the squared answers to one unit of each of the three noises.
    flow, start = GaussianFlow(*DATA, Gaussian(Schedule())), math.sqrt(0.25 + 80.0**2)

    class Units(Rng):
        """Of four examples the second, third and fourth have one unit of the first, second and third noise."""

        drawn = 0

        def normal_like(self, x: Tensor) -> Tensor:
            self.drawn += 1
            return torch.eye(4, dtype=x.dtype)[:, [self.drawn + 1]]

    units = Units.from_seeds(range(4))
    begin = 0.3 + start * torch.eye(4, dtype=torch.float64)[:, [1]]
    end = sample(flow, Gamma(0.5), Jumps(3), (4, 1), rng=units, start=begin, dtype=torch.float64)
    return float((end[1:] - end[0]).square().sum()), 0.25


@check(CTM, "the level between two jumps: ((80^(1/7) + 0.002^(1/7)) / 2)^7", "2206.00364, eq. 5", 1e-9)
def level_between():
    return Jumps(2)(Gaussian(Schedule()))[1].ratio, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 1000 steps of 64 images for the teacher and 300 for each student.

COUNT = 1000
"""Samples of each measure."""


def _teacher(lab, seed):
    return lab.digits(EDM, seed, steps=1000, small=True)


def _student(lab, seed, **options):
    return lab.digits(CTM, seed, steps=300, small=True, teacher=str(_teacher(lab, seed).path), **options)


def _jumps(lab, model, steps, gamma=0.0):
    return lab.samples(model, COUNT, Sampling(Gamma(gamma), Jumps(steps)))


def _taught(lab, seed, evaluations):
    """The teacher's samples by so many evaluations: by DDIM where there are few, by Heun's method where there are 35."""
    sampling = Sampling(Heun(), Karras(18)) if evaluations == 35 else Sampling(DDIM(), Jumps(evaluations))
    return lab.samples(_teacher(lab, seed), COUNT, sampling)


MEASURE = f"sliced_wasserstein[pixels] to held-out digits, {COUNT} samples"


@claim(CTM, "With one and two evaluations it samples better than its teacher", "table 1")
def beats_its_teacher_at_few(lab) -> Finding:
    held_out, margins, numbers = lab.held_out("digits"), [], {}
    for seed in lab.seeds:
        row = {}
        for n in (1, 2):
            row[f"student, {n}"] = lab.sliced(_jumps(lab, _student(lab, seed), n), held_out)
            row[f"teacher, {n}"] = lab.sliced(_taught(lab, seed, n), held_out)
        row["teacher, 35"] = lab.sliced(_taught(lab, seed, 35), held_out)
        margins.append(min(row[f"teacher, {n}"] / row[f"student, {n}"] - 1 for n in (1, 2)))
        numbers[f"seed {seed}"] = row
    student, seed = _student(lab, lab.seeds[0]), lab.seeds[0]
    rows = {f"teacher, {n}": _taught(lab, seed, n) for n in (35, 2, 1)}
    rows |= {f"student, {n}": _jumps(lab, student, n) for n in (2, 1)}
    picture = lab.gallery_of("ctm-few-evaluations", rows, columns=10)
    return Finding.over_seeds(margins, {"measure": MEASURE, **numbers}, [picture])


@claim(CTM, "One and two jumps close nine tenths of the way from their teacher's to its 35 evaluations'", "table 1")
def closes_the_distance(lab) -> Finding:
    held_out, margins, numbers = lab.held_out("digits"), [], {}
    for seed in lab.seeds:
        best, row = lab.sliced(_taught(lab, seed, 35), held_out), {}
        for n in (1, 2):
            gap = lab.sliced(_taught(lab, seed, n), held_out) - best
            row[n] = 1 - (lab.sliced(_jumps(lab, _student(lab, seed), n), held_out) - best) / gap
        margins.append(min(row.values()) - 0.9)
        numbers[f"seed {seed}"] = {f"share closed, {n} evaluations": v for n, v in row.items()}
    return Finding.over_seeds(margins, {"measure": MEASURE, **numbers})


@claim(
    CTM,
    "From the same noise, one jump ends nearer to its teacher's 35 evaluations than 5 of the teacher's",
    "2310.02279",
)
def lands_where_the_teacher_lands(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        goal = _taught(lab, seed, 35)
        row = {
            "student, 1": _jumps(lab, _student(lab, seed), 1),
            "student, 2": _jumps(lab, _student(lab, seed), 2),
            "teacher, 2": _taught(lab, seed, 2),
            "teacher, 5": _taught(lab, seed, 5),
        }
        row = {name: float((x - goal).square().mean().sqrt()) for name, x in row.items()}
        margins.append(row["teacher, 5"] / row["student, 1"] - 1)
        numbers[f"seed {seed}"] = row
    return Finding.over_seeds(margins, {"measure": "RMSE of pictures from the same noise", **numbers})


def _by_jumps(lab, seed):
    """Distances to held-out digits, by gamma and number of jumps."""
    runs = [(0.0, n) for n in (1, 2, 4, 8, 16)] + [(g, n) for g in (0.5, 1.0) for n in (2, 4, 16)]
    student, held_out = _student(lab, seed), lab.held_out("digits")
    return {(g, n): lab.sliced(_jumps(lab, student, n, g), held_out) for g, n in runs}


def _named(row):
    return {f"gamma {g:g}, {n} jumps": v for (g, n), v in row.items()}


@claim(CTM, "With gamma = 0, 4 and 8 jumps sample better than one", "2310.02279")
def more_jumps_are_better(lab) -> Finding:
    rows = [_by_jumps(lab, seed) for seed in lab.seeds]
    margins = [row[0, 1] - max(row[0, 4], row[0, 8]) for row in rows]
    numbers = {f"seed {seed}": _named(row) for seed, row in zip(lab.seeds, rows, strict=True)}
    return Finding.over_seeds(margins, {"measure": MEASURE, **numbers})


@claim(CTM, "16 jumps sample better with gamma = 0 than with gamma = 1, which draws all noise anew", "2310.02279")
def gamma_one_collects_errors(lab) -> Finding:
    rows = [_by_jumps(lab, seed) for seed in lab.seeds]
    margins = [row[1, 16] - row[0, 16] for row in rows]
    numbers = {f"seed {seed}": _named(row) for seed, row in zip(lab.seeds, rows, strict=True)}
    return Finding.over_seeds(margins, {"measure": MEASURE, **numbers})


@claim(
    CTM,
    "With gamma = 0, 2, 4 and 8 jumps end ever nearer to the teacher's 35 evaluations of the same noise",
    "2310.02279",
)
def more_jumps_follow_the_flow(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        goal, student = _taught(lab, seed, 35), _student(lab, seed)
        row = [float((_jumps(lab, student, n) - goal).square().mean().sqrt()) for n in (1, 2, 4, 8)]
        margins.append(min(a - b for a, b in zip(row[:-1], row[1:], strict=True)))
        numbers[f"seed {seed}"] = dict(zip(("1", "2", "4", "8 jumps"), row, strict=True))
    return Finding.over_seeds(margins, {"measure": "RMSE of pictures from the same noise", **numbers})


@torch.no_grad()
def _error(lab, model, sigmas=(0.2, 1.0, 5.0)) -> float:
    """Mean square error of g(x, t, t) on held-out digits, weighted by 1 + 1 / (4 sigma^2), over noise levels."""
    data = lab.data("digits", "held-out")
    batch = data.batch(range(len(data)))
    cond, process = model.recipe.condition(batch), model.denoiser.process
    errors = []
    for sigma in sigmas:
        t = torch.full((len(batch.x),), sigma / 80, dtype=torch.float64)
        xt = process.corrupt(batch.x, t, Rng.from_seeds(range(len(batch.x))))
        errors.append(float((model.denoiser(xt, t, cond).mean - batch.x).square().mean()) * (1 + 0.25 / sigma**2))
    return sum(errors) / len(errors)


@claim(CTM, "Without denoising in its training, g(x, t, t) denoises held-out digits worse", "2310.02279")
def denoising_keeps_the_denoiser(lab) -> Finding:
    held_out, margins, numbers = lab.held_out("digits"), [], {}
    for seed in lab.seeds:
        models = {"with": _student(lab, seed), "without": _student(lab, seed, denoising=False)}
        errors = {name: _error(lab, model) for name, model in models.items()}
        heun = Sampling(Heun(), Karras(18))
        distances = {name: lab.sliced(lab.samples(m, COUNT, heun), held_out) for name, m in models.items()}
        jumps = {name: lab.sliced(_jumps(lab, m, 1), held_out) for name, m in models.items()}
        margins.append(errors["without"] / errors["with"] - 1)
        numbers[f"seed {seed}"] = {
            **{f"error, {name}": v for name, v in errors.items()},
            "error, teacher": _error(lab, _teacher(lab, seed)),
            **{f"distance of 18 steps of Heun, {name}": v for name, v in distances.items()},
            **{f"distance of 1 jump, {name}": v for name, v in jumps.items()},
        }
    return Finding.over_seeds(
        margins,
        {"measure": "mean over sigma = 0.2, 1, 5 of the held-out square error times 1 + 1 / (4 sigma^2)", **numbers},
    )


untestable(
    CTM,
    "CIFAR-10 FID 1.98 with one evaluation and 1.87 with two; 5.19 with one without the discriminator",
    "table 1",
    "needs 100k steps of 256 images through EDM's network, and features trained on ImageNet for LPIPS and the discriminator",
)
untestable(
    CTM,
    "ImageNet 64x64 FID 1.92 with one evaluation and 1.73 with two",
    "table 2",
    "needs 30k steps of 2048 images through a network of 296 M parameters, and discriminators on features of ImageNet",
)
