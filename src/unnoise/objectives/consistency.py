r"""Consistency along trajectories: a jump is right if it ends where a teacher's steps and a shorter jump end.

For t > u >= s, G the student's jumps, G^- those of its average, Solve the frozen teacher's solver:

    estimate = G^-(G(x_t, t, s), s, end),    target = G^-(G(Solve(x_t, t, u), u, s), s, end),    L = d(estimate, target)

Both are brought to the end of time by the average, where a distance means the same at every s. No gradient flows into the
target; in the estimate it flows through the average, whose weights stand still, to the student's jump. Since the share
1 - s/t of g in G vanishes at s = t, the denoiser g(x_t, t, t) is taught besides by denoising (2310.02279). A critic that tells
estimates from data may be a third to please, in a turn of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoisers import NetworkDenoiser, jump
from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem, unknown
from ..rng import Rng
from ..samplers import Karras, Solved
from .balance import balance
from .matching import Matching, mean_event
from .objective import Loss, Objective

Horizon = Literal["soft", "local", "global"]


def huber(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(|x - y|^2 / d + c^2) - c with c = 0.00054, over all axes but the first: pseudo-Huber's distance (2310.14189), by
    dimension."""
    c = 0.00054
    return (mean_event((x - y).square()) + c * c).sqrt() - c


def squared(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 / d."""
    return mean_event((x - y).square())


DISTANCES = {"huber": huber, "l2": squared}


class Consistency(Objective):
    """d(estimate, target) + w E |g(x_t, t, t) - x_0|^2, weighted as `denoising` says, w such that both pull alike.

    teacher    the frozen denoiser; `target` the student's average, which `decay` a step remembers and `follow` keeps up
    grid       the levels that t, u and s are drawn from
    most       most solver steps from t to u; their number h is drawn with a probability of h, one for a batch
    horizon    where u lies: "soft" h steps below t; "local" one step below; "global" at s, the teacher alone the measure
    anywhere   whether s is any level at or below u, or always the last (consistency distillation, 2303.01469)
    distance   a name of `DISTANCES`
    denoising  the loss on g(x_t, t, t); None for none
    critic     critic(x, t) -> (batch,), above 0 where x looks like data, shown images and t = 0: estimates are to please it, by the
               hinge loss, weighted as denoising is but from 0.01 to 10; None for none
    """

    def __init__(
        self,
        teacher: Denoiser,
        target: Denoiser,
        grid: Karras,
        most: int,
        denoising: Matching | None,
        horizon: Horizon = "soft",
        anywhere: bool = True,
        distance: str = "huber",
        decay: float = 0.999,
        critic: nn.Module | None = None,
    ):
        super().__init__()
        if distance not in DISTANCES:
            raise unknown("distance", distance, DISTANCES)
        if not 1 <= most < grid.steps:
            raise UsageProblem(
                f"{most} solver steps are none of 1 to {grid.steps - 1}, which {grid.steps} levels allow"
            )
        if not 0 <= decay < 1:
            raise UsageProblem(f"the target's decay is {decay}, but must be 0 or more and below 1")
        self.teacher, self.target = teacher.requires_grad_(False), target.requires_grad_(False)
        self.grid, self.most, self.denoising = grid, 1 if horizon == "local" else most, denoising
        self.horizon, self.anywhere, self.decay = horizon, anywhere, decay
        self.distance, self.critic = DISTANCES[distance], critic
        if critic is not None:
            self.turns = ("critic", "denoiser")
        self.train(self.training)

    def train(self, mode: bool = True) -> Consistency:
        """Teacher and target are always shown as they are used, without dropout."""
        super().train(mode)
        self.teacher.eval()
        self.target.eval()
        return self

    def parameters_of(self, denoiser: Denoiser, turn: str) -> Iterable[nn.Parameter]:
        return denoiser.parameters() if turn == "denoiser" else self._judge().parameters()

    @torch.no_grad()
    def follow(self, denoiser: Denoiser) -> None:
        """Average the student's weights of one step more."""
        for average, weight in zip(self.target.parameters(), denoiser.parameters(), strict=True):
            average.lerp_(weight, 1 - self.decay)

    def draw(self, process, rng: Rng) -> tuple[Tensor, Tensor, Tensor, int]:
        """Times t, u and s (batch,), and the number of solver steps from t to u."""
        levels = torch.tensor(self.grid.times(process), dtype=torch.float64, device=rng.device)
        last = len(levels) - 1
        share = float(torch.rand((), generator=rng.shared, dtype=torch.float64))
        # h with probability h / (1 + ... + most): the least h of h (h + 1) / 2 above its share of the sum
        steps = math.ceil((math.sqrt(1 + 4 * share * self.most * (self.most + 1)) - 1) / 2)
        steps = min(max(steps, 1), self.most)
        i = (rng.uniform() * (last - steps + 1)).long()
        u = i + steps
        s = u + (rng.uniform() * (last - u + 1)).long()
        if self.horizon == "global":
            s = u
        elif not self.anywhere:
            s = torch.full_like(u, last)
        return levels[i], levels[u], levels[s], steps

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        t, u, s, steps = self.draw(denoiser.process, rng)
        xt = denoiser.process.corrupt(x0, t, rng)
        if turn == "critic":
            with torch.no_grad():
                fake = self.estimate(denoiser, xt, t, s, cond)
            true, false = self.looks(x0), self.looks(fake)
            return Loss(F.relu(1 - true) + F.relu(1 + false), {"right": ((true > 0).float() + (false < 0).float()) / 2})
        estimate = self.estimate(denoiser, xt, t, s, cond)
        total = loss = self.distance(estimate, self.aim(denoiser, xt, t, u, s, steps, cond))
        terms = {"consistency": loss}
        if self.denoising is not None:
            terms["denoising"] = self.denoising(denoiser, x0, cond, rng.spawn(1)).per_example
            weight = balance(loss, terms["denoising"], last_layer(denoiser))
            total, terms["balance"] = total + weight * terms["denoising"], weight.expand_as(loss)
        if self.critic is not None:
            displeasure = -self.looks(estimate)
            total = total + balance(loss, displeasure, last_layer(denoiser), 0.01, 10.0) * displeasure
        return Loss(total, terms)

    def estimate(self, denoiser: Denoiser, xt: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """Where the student's jump from t to s ends."""
        return jump(self.target, jump(denoiser, xt, t, s, cond), s, self._end(denoiser, t), cond)

    @torch.no_grad()
    def aim(self, denoiser: Denoiser, xt: Tensor, t: Tensor, u: Tensor, s: Tensor, steps: int, cond: Cond) -> Tensor:
        """Where the teacher's way to u and the student's jump from there to s end."""
        xu = Solved(self.teacher, steps, rho=self.grid.rho).jump(xt, t, u, cond)
        return jump(self.target, jump(denoiser, xu, u, s, cond), s, self._end(denoiser, t), cond)

    def looks(self, x: Tensor) -> Tensor:
        """The critic's opinion of images, (batch,)."""
        return self._judge()(x, torch.zeros(len(x), device=x.device))

    def _judge(self) -> nn.Module:
        if self.critic is None:
            raise UsageProblem("this objective has no critic; build it with one")
        return self.critic

    def _end(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        return torch.full_like(t, self.grid.times(denoiser.process)[-1])


def last_layer(denoiser: Denoiser) -> nn.Parameter:
    """The weight of the last layer of a denoiser's network, its `head`."""
    head = getattr(denoiser.network if isinstance(denoiser, NetworkDenoiser) else denoiser, "head", None)
    if not isinstance(head, nn.Module):
        raise UsageProblem(
            f"a {type(denoiser).__name__} has no network with a head, by whose gradient losses are weighed"
        )
    return head.weight  # type: ignore[return-value]


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Give a network its teacher's weights, so that it is the teacher whatever second time it is told.

    What it is told besides enters by further columns of matrices, which start at 0. Raises UsageProblem for networks of other
    shapes.
    """
    given = teacher.state_dict()
    for name, own in student.state_dict().items():
        weights = given.get(name)
        if weights is None:
            if ".second." in f".{name}":
                continue
            raise UsageProblem(f"the teacher's network has no {name}; give both the same network")
        wider = own.ndim == 2 and own.shape[0] == weights.shape[0] and own.shape[1] > weights.shape[1]
        if own.shape != weights.shape and not wider:
            raise UsageProblem(
                f"{name} is {tuple(weights.shape)} in the teacher and {tuple(own.shape)} here; give both the same network"
            )
        if wider:
            own.zero_()
        own[tuple(slice(n) for n in weights.shape)].copy_(weights)
