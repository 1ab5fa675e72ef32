"""A classifier of noisy states, trained beside the denoiser that it will guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch.nn.functional as F
from torch import Tensor, nn

from ..denoisers import ClassifyingDenoiser
from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..rng import Rng
from .objective import Around, Loss, Objective
from .times import Times

TURN = "classifier"


class WithClassifier(Around):
    """An objective, and in a turn of its own -log p(y | x_t) for the denoiser's classifier, x_t at times of its own.

    `lr` and `weight_decay` are the classifier's (2105.05233: 3e-4 and 0.05); the rest of its training is the denoiser's.
    """

    def __init__(self, objective: Objective, times: Times, lr: float, weight_decay: float):
        super().__init__(objective)
        self.times = times
        self.turns = (*objective.turns, TURN)
        own = {"lr": lr, "weight_decay": weight_decay}
        self.turn_options = {**getattr(objective, "turn_options", {}), TURN: own}

    def parameters_of(self, denoiser: Denoiser, turn: str) -> Iterable[nn.Parameter]:
        if not isinstance(denoiser, ClassifyingDenoiser):
            raise UsageProblem(f"a {type(denoiser).__name__} has no classifier to train")
        own = list(denoiser.classifier.parameters())
        if turn == TURN:
            return own
        others = {id(p) for p in own}
        return [p for p in self.objective.parameters_of(denoiser, turn) if id(p) not in others]

    def prepare(self, step: int, shown: Callable[[], AbstractContextManager[Denoiser]]) -> Sequence[str]:
        return *self.objective.prepare(step, shown), TURN

    def forward(self, denoiser: ClassifyingDenoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        if turn != TURN:
            return self.objective(denoiser, x0, cond, rng, turn)
        label = None if cond is None else cond.get("label")
        if label is None:
            raise UsageProblem("a classifier learns from labels, and these data have none; pass --no-classifier")
        t, importance = self.times.sample(denoiser.process, rng)
        log_probs = denoiser.log_probs(denoiser.process.corrupt(x0, t, rng), t)
        loss = importance.to(x0.dtype) * F.nll_loss(log_probs, label, reduction="none")
        right = (log_probs.argmax(1) == label).to(x0.dtype)
        return Loss(loss, {"accuracy": right})
