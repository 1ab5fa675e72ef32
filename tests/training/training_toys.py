"""Small things to train: a denoiser of vectors, an objective of one turn, a game of two, random rows as data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unnoise.training import Run, TrainingOptions, train


@dataclass
class Loss:
    per_example: Tensor
    terms: dict = field(default_factory=dict)


@dataclass
class Batch:
    x: Tensor
    cond: dict | None = None


class Rows:
    """`size` rows of `width` numbers, with a label each."""

    fingerprint = "rows"

    def __init__(self, size: int = 50, width: int = 6, poison: int | None = None):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(size, width, generator=generator)
        self.label = torch.arange(size) % 3
        if poison is not None:
            self.x[poison] = float("nan")
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        self.asked.append(indices.tolist())
        return Batch(self.x[indices], {"label": self.label[indices]})


class Denoiser(nn.Module):
    def __init__(self, width: int = 6, hidden: int = 16, dropout: float = 0.2, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.network = nn.Sequential(
            nn.Linear(width + 1, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.unused = nn.Linear(2, 2)  # never gets a gradient

    def forward(self, x, t, cond=None):
        return self.network(torch.cat([x, t[:, None]], 1)) + 0.1 * cond["label"][:, None]


class Simple(nn.Module):
    """|D(x0 + t eps) - x0|^2, weighted by a learnt number, with a buffer that remembers the losses."""

    def __init__(self):
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64))

    def forward(self, denoiser, x0, cond, rng, turn) -> Loss:
        t = rng.uniform(dtype=torch.float32)
        error = (denoiser(x0 + t[:, None] * rng.normal_like(x0), t, cond) - x0).square().mean(1)
        return Loss(error * self.log_weight.exp() - self.log_weight, {"error": error, "t": t})

    def observe(self, loss: Loss) -> None:
        self.seen += torch.stack([loss.per_example.double().sum(), loss.terms["t"].double() @ loss.terms["t"].double()])


class Game(nn.Module):
    """Two networks in turns: a critic in the objective, and the denoiser that must please it."""

    turns = ("critic", "denoiser")
    turn_options = {"critic": {"lr": 3e-3, "betas": (0.5, 0.9)}}  # noqa: RUF012

    def __init__(self, width: int = 6):
        super().__init__()
        torch.manual_seed(5)
        self.critic = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1))

    def parameters_of(self, denoiser, turn):
        return list((self.critic if turn == "critic" else denoiser).parameters())

    def forward(self, denoiser, x0, cond, rng, turn) -> Loss:
        t = rng.uniform(dtype=torch.float32)
        guess = denoiser(x0 + t[:, None] * rng.normal_like(x0), t, cond)
        if turn == "critic":
            return Loss((self.critic(guess) - self.critic(x0)).squeeze(1))
        return Loss(-self.critic(guess).squeeze(1) + (guess - x0).square().mean(1))


def options(**changes) -> TrainingOptions:
    """A short run in which everything happens."""
    short = {
        "steps": 8, "batch_size": 8, "lr": 1e-2, "warmup": 3, "decay": "cosine", "ema": 100, "ema_power": (0.1,),
        "precision": "fp32", "checkpoint_every": 100, "preview_every": 0,
    }  # fmt: skip
    return TrainingOptions(**{**short, **changes})


def fit(
    path, objective=None, data=None, resume=False, denoiser=None, on_step=None, preview=None, draw=False, **changes
):
    """Train the toy in the run folder `path`; returns denoiser, objective, run, result."""
    denoiser = Denoiser() if denoiser is None else denoiser
    objective = Simple() if objective is None else objective
    run = Run.open(path) if resume else Run.create(path, {"paper": "toy"})
    if not draw:  # the curve of the loss takes longer than these trainings
        run.journal.draw = lambda picture: None
    data = Rows() if data is None else data
    result = train(objective, denoiser, data, options(**changes), run, on_step=on_step, preview=preview)
    return denoiser, objective, run, result


def tensors(run: Run, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, by file and name."""
    from unnoise.training.checkpoint import check, read_tensors

    folder = run.checkpoint_path(step)
    files = [name.removesuffix(".safetensors") for name in check(folder)["files"]]
    return {f"{file}/{name}": value for file in files for name, value in read_tensors(folder, file).items()}
