"""Every choice of the training loop, with its default, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageProblem, unknown

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Decay = Literal["none", "linear", "cosine"]
Tracker = Literal["tensorboard", "trackio", "wandb"]


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a network is trained. One step is one update by the mean over one global batch."""

    steps: int = 10_000
    """Number of steps."""
    minutes: float | None = None
    """A budget of time that decides instead of `steps`: the first steps are timed, then the number of steps is fixed and kept
    in the run, so that a resumed run ends where this one would have."""
    batch_size: int = 64
    """Examples per step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches a step is split into, to save memory; the result is the same but for rounding."""
    lr: float = 1e-3
    """Learning rate of AdamW after warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the average square."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly."""
    decay: Decay = "none"
    """How the learning rate falls towards the end."""
    decay_from: float = 0.5
    """The fraction of the run where the fall begins."""
    decay_to: float = 0.0
    """The fraction of `lr` where it ends."""
    clip: float | None = 1.0
    """Largest global norm of the gradient; none for no limit."""
    ema: float | None = 500_000
    """Half-life, in images, of the average of the weights; none for no average."""
    ema_rampup: float | None = 0.05
    """The half-life is at most this fraction of the images seen so far; none for no ramp-up."""
    ema_power: tuple[float, ...] = ()
    """Further averages with power-function profiles, by relative standard deviation (EDM2's sigma_rel)."""
    precision: Precision = "auto"
    """Of the networks' arithmetic; auto takes what the device computes fastest. Weights stay in float32."""
    seed: int = 0
    """Names every random draw of the run, with the step and the place in the global batch."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    keep_every: int = 0
    """Checkpoints at multiples of this many steps are kept for ever; 0 for none."""
    preview_every: int = 1000
    """Steps between preview pictures; 0 for none."""
    log_every: int = 1
    """Steps that a line of metrics averages over."""
    trackers: tuple[Tracker, ...] = ()
    """Where the metrics go besides the run folder."""

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "keep", "log_every"):
            _check(name, getattr(self, name), lambda v: isinstance(v, int) and v >= 1, "a whole number, 1 or more")
        for name in ("warmup", "seed", "keep_every", "preview_every"):
            _check(name, getattr(self, name), lambda v: isinstance(v, int) and v >= 0, "a whole number, 0 or more")
        for name in ("lr", "eps"):
            _check(name, getattr(self, name), lambda v: 0 < v < math.inf, "a positive number")
        for name in ("minutes", "clip", "ema", "ema_rampup"):
            _check(name, getattr(self, name), lambda v: v is None or 0 < v < math.inf, "a positive number, or None")
        _check("weight_decay", self.weight_decay, lambda v: 0 <= v < math.inf, "a number, 0 or more")
        _check("betas", self.betas, lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers in [0, 1)")
        for name in ("decay_from", "decay_to"):
            _check(name, getattr(self, name), lambda v: 0 <= v <= 1, "a fraction between 0 and 1")
        _check("ema_power", self.ema_power, lambda v: all(0 < s < 0.288 for s in v), "numbers between 0 and 0.288")
        for name, value, choices in (
            ("precision", self.precision, Precision),
            ("decay", self.decay, Decay),
            *(("tracker", tracker, Tracker) for tracker in self.trackers),
        ):
            if value not in choices.__args__:
                raise unknown(name, value, choices.__args__)
        if self.accumulate > self.batch_size:
            raise UsageProblem(f"accumulate {self.accumulate} is more than batch_size {self.batch_size}; lower it")

    def learning_rate(self, step: int, steps: int | None) -> float:
        """The learning rate of step `step` (from 0) of `steps`; while `steps` is unknown, the decay has not begun."""
        factor = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay == "none" or steps is None:
            return self.lr * factor
        start = self.decay_from * steps
        progress = min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))
        left = 1 - progress if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * factor * (self.decay_to + (1 - self.decay_to) * left)


def _check(name: str, value, holds, wanted: str) -> None:
    try:
        good = not isinstance(value, bool) and holds(value)
    except TypeError:
        good = False
    if not good:
        raise UsageProblem(f"{name} must be {wanted}, not {value!r}")


PUBLISHED = TrainingOptions(ema_rampup=None, checkpoint_every=5000, preview_every=5000, log_every=50)
"""What published trainings have in common: days long, and an average of the weights that does not ramp up."""
