r"""Masking: positions of a sequence lose their symbols one after the other, in a random order (2110.02037).

Backwards this is autoregression in any order. Every position i has a rank, rank(i) in 0..D-1, its place in the order in which
symbols come back. When e of D have come back, the known positions are those with rank < e. Time is what is left to do,

    t = (D - e) / D,

so a chain that reveals one position a step has D steps, and one that reveals several at a step fewer.

With `branching` b ("upscale") symbols come back digit by digit, the coarsest first: S stages, after stage s the position
holds floor(x / b^(S-s)) b^(S-s), and t = (S D - e) / (S D). Without it S is 1, and a position is masked or known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Categorical, Dirac, Law, Pinned, sum_event
from ..rng import Rng
from ..scalars import column
from .base import Moment, Process
from .digits import Digits

Order = Literal["random", "left-to-right"]


class Masking(Process):
    """Symbols 0..`tokens` - 1, in events of the shape `event`; symbol number `tokens` is the mask.

    Data are the symbols themselves (int64), or with a `scale` their levels 2k/scale - 1: tokens - 1 for images, whose lightest
    is 1; tokens for sounds. A state is int64: the symbol plus (tokens + 1) times the rank of its position, so that a walk keeps
    to its order.
    `losses` (stages, D) is what a symbol cost in training, nats, by the number of positions that were known; `seen` counts.
    """

    likelihood = "order-agnostic"
    losses: Tensor
    seen: Tensor

    def __init__(
        self,
        tokens: int,
        event: Sequence[int],
        branching: int | None = None,
        order: Order = "random",
        scale: int | None = None,
    ):
        super().__init__()
        if tokens < 2:
            raise UsageProblem(f"data of {tokens} symbol has nothing to guess; it needs 2 or more")
        if branching is not None and branching < 2:
            raise UsageProblem(f"branching is {branching}, but a symbol has digits to a base of 2 or more")
        self.tokens, self.event, self.order, self.scale = tokens, tuple(event), order, scale
        self.length = math.prod(self.event)
        self.branching, self.stages = branching or tokens, 1
        while self.branching**self.stages < tokens:
            self.stages += 1
        self.steps = self.stages * self.length
        self.register_buffer("losses", torch.zeros(self.stages, self.length, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(self.stages, self.length, dtype=torch.int64))

    def refuse(self, step: Any) -> None:
        """Raises UsageProblem for a share eta of a noise that there is not: what is random in a walk is drawn as it begins, or by
        the guess."""
        if getattr(step, "eta", 1) != 1:
            raise UsageProblem(f"eta is {step.eta}, but symbols that are masked have one chain only; take eta 1")

    # Data and states

    def numbers(self, x0: Tensor) -> Tensor:
        """Data as symbols, int64."""
        if self.scale is None or not x0.is_floating_point():
            return x0
        return ((x0 + 1) / 2 * self.scale).round().long().clamp(0, self.tokens - 1)

    def symbol(self, xt: Tensor) -> Tensor:
        """The symbols of a state, the mask among them."""
        return xt % (self.tokens + 1)

    def rank(self, xt: Tensor) -> Tensor:
        """The ranks of a state's positions."""
        return xt // (self.tokens + 1)

    def join(self, symbol: Tensor, rank: Tensor) -> Tensor:
        return symbol + (self.tokens + 1) * rank

    def state(self, x0: Tensor) -> Tensor:
        """Data as a state of which all is known, of no particular order."""
        return self.numbers(x0)

    def data(self, xt: Tensor) -> Tensor:
        """Symbols, or their levels; what is masked as the mask, or as level 0."""
        symbol = self.symbol(xt)
        return symbol if self.scale is None else self.levels(symbol)

    def levels(self, symbol: Tensor) -> Tensor:
        """2k/scale - 1, and 0 for the mask, float32."""
        return torch.where(symbol == self.tokens, 0.0, 2 * symbol.float() / (self.scale or 1) - 1)

    # Times

    def left(self, t: Tensor | Moment, batch: int) -> Tensor:
        """How many symbols (in stages: digits) are still to come, int64 (batch,)."""
        t = t if isinstance(t, Tensor) else torch.full((batch,), float(t.t), dtype=torch.float64)
        return (t.double() * self.steps).round().long()

    def stage_end(self, t: Tensor) -> Tensor:
        """The time at which the stage of t is done, (batch,), float64."""
        return (self.left(t, len(t)) - 1).div(self.length, rounding_mode="floor") * self.length / self.steps

    def depth(self, rank: Tensor, t: Tensor | Moment) -> Tensor:
        """How many of its stages each position has behind it at time t: 0 is masked, `stages` is known."""
        come = (self.steps - self.left(t, len(rank))).to(rank.device)
        whole = come.div(self.length, rounding_mode="floor")
        return column(whole, rank) + (rank < column(come % self.length, rank))

    def width(self, depth: Tensor) -> Tensor:
        """How many symbols look alike at a depth."""
        return self.branching ** (self.stages - depth)

    def coarse(self, symbol: Tensor, depth: Tensor) -> Tensor:
        """What is known of symbols at a depth."""
        width = self.width(depth)
        return torch.where(depth == 0, self.tokens, symbol.div(width, rounding_mode="floor") * width)

    def surface(self, xt: Tensor, t: Tensor | Moment) -> tuple[Tensor, Tensor]:
        """Symbols and depths of a state. A symbol that was put in the place of a mask counts as known."""
        symbol = self.symbol(xt)
        depth = self.depth(self.rank(xt), t).clamp(max=self.stages)
        return symbol, torch.where((depth == 0) & (symbol != self.tokens), self.stages, depth)

    def beneath(self, xt: Tensor, t: Tensor | Moment) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols and depths of a state, and whether symbol k can be behind each, bool (*x.shape, tokens)."""
        symbol, depth = self.surface(xt, t)
        width, k = self.width(depth)[..., None], torch.arange(self.tokens, device=xt.device)
        same = k.div(width, rounding_mode="floor") == symbol[..., None].div(width, rounding_mode="floor")
        return symbol, depth, same | (depth == 0)[..., None]

    def log_evidence(self, xt: Tensor, t: Tensor | Moment) -> Tensor:
        """log p(x_t^i | x_0^i = k) for every symbol k, but for a constant: 0 where k is possible, else -inf."""
        return torch.where(self.beneath(xt, t)[2], 0.0, -torch.inf).double()

    # Laws

    def ranks(self, rng: Rng, event: Sequence[int]) -> Tensor:
        """The order in which positions come back, int64 (batch, *event)."""
        if self.order == "left-to-right":
            each = torch.arange(self.length).expand(len(rng), -1)
        else:
            each = rng.uniform(self.length).argsort(1).argsort(1)
        return each.reshape(len(rng), *event).to(rng.device)

    def prior(self, shape: Sequence[int], t=None) -> Masked:
        """All masked, in an order each."""
        nothing = torch.zeros(*shape, dtype=torch.int64)
        return Masked(self, nothing, torch.ones(shape[0], dtype=torch.float64))

    def marginal(self, x0: Tensor, t: Tensor | Moment) -> Masked:
        t = t if isinstance(t, Tensor) else torch.full((len(x0),), float(t.t), dtype=torch.float64)
        return Masked(self, self.numbers(x0), t)

    def posterior(self, xt: Tensor, x0: Tensor, t, s, eta: float = 1.0) -> Revealed:
        """What the order says. There is no noise of which eta could be a share."""
        rank = self.rank(xt)
        return Revealed(self, Dirac(self.numbers(x0)), xt, self.depth(rank, t), self.depth(rank, s))

    def reverse_law(self, guess: Law, xt: Tensor, t, s, eta: float = 1.0, rng: Rng | None = None) -> Revealed:
        """p(x_s | x_t): the symbols whose turn it is between t and s, each by its own law."""
        if isinstance(guess, Pinned):
            inner = self.reverse_law(guess.guess, xt, t, s).guess
            x0, there = self.numbers(guess.x).to(xt).expand_as(xt), guess.known.to(xt.device)[..., None]
            if isinstance(inner, Digits):
                known, there = Digits.certain(x0, self.stages, self.branching), there[..., None]
            else:
                known = self._certain(x0)
            guess = type(inner)(torch.where(there, known.log_probs.to(inner.log_probs), inner.log_probs))  # type: ignore[union-attr]
        if not isinstance(guess, (Categorical, Digits)):
            raise UsageProblem(
                f"masks hide symbols, whose guess is a Categorical law, and this model's is a {type(guess).__name__}"
            )
        rank = self.rank(xt)
        return Revealed(self, guess, xt, self.depth(rank, t), self.depth(rank, s))

    def _certain(self, symbol: Tensor) -> Categorical:
        k = torch.arange(self.tokens, device=symbol.device)
        return Categorical(torch.where(k == symbol[..., None], 0.0, -torch.inf).double())

    def observe(self, t: Tensor, nats: Tensor, most: int = 5000) -> None:
        """Take in what a symbol cost at times t (both (batch,)): running means over the later half of what was seen, 10 values at
        least and `most` at the most, so that what an untrained network paid is forgotten. A schedule asks for their shape alone,
        which settles early, and noise in it costs more than what is out of date; so of long events neighbours share a mean, 64
        of them to a stage."""
        come = (self.steps - self.left(t, len(t))).to(self.losses.device)
        alike = -(-self.length // 64)
        group = torch.arange(self.length, device=come.device).div(alike, rounding_mode="floor")
        stage, known = come.div(self.length, rounding_mode="floor"), come % self.length
        which = stage * (group[-1] + 1) + group[known]
        count = torch.bincount(which, minlength=self.stages * int(group[-1] + 1))
        total = torch.zeros(count.shape, dtype=torch.float64, device=come.device).index_add_(
            0, which, nats.to(self.losses)
        )
        new, mean = (v.view(self.stages, -1)[:, group] for v in (count, total / count.clamp(min=1)))
        self.seen += new
        window = torch.minimum(self.seen, (self.seen / 2).clamp(10, most))
        share = (new / window.clamp(min=1)).clamp(max=1)
        self.losses += share * (mean - self.losses)


@dataclass(frozen=True, slots=True)
class Masked(Law):
    """q(x_t | x_0): every order is as likely as any other."""

    process: Masking
    x0: Tensor
    t: Tensor

    def sample(self, rng: Rng) -> Tensor:
        rank = self.process.ranks(rng, self.x0.shape[1:])
        x0 = self.x0.to(rank.device)
        return self.process.join(self.process.coarse(x0, self.process.depth(rank, self.t)), rank)

    def log_prob(self, x: Tensor) -> Tensor:
        """Of a state, its order with it: -log D!, or -inf where it is not x_0 partly masked."""
        rank = self.process.rank(x)
        right = self.process.symbol(x) == self.process.coarse(self.x0, self.process.depth(rank, self.t))
        count = math.lgamma(self.process.length + 1) if self.process.order == "random" else 0.0
        return (
            torch.full((len(x),), -count, dtype=torch.float64)
            .to(x.device)
            .masked_fill(~right.flatten(1).all(1), -torch.inf)
        )

    def kl(self, other: Law) -> Tensor:
        """0 where both hide as much, and show the same if they show anything; else infinite."""
        if not isinstance(other, Masked):
            return Law.kl(self, other)
        left = self.process.left(self.t, len(self.t)), self.process.left(other.t, len(other.t))
        same = (self.x0 == other.x0.to(self.x0)).flatten(1).all(1) | (left[0] == self.process.steps).to(self.x0.device)
        alike = (left[0] == left[1]).to(same.device) & same
        return torch.where(alike, 0.0, torch.inf).double()


@dataclass(frozen=True, slots=True)
class Revealed(Law):
    """p(x_s | x_t): positions go from depth `before` to depth `after`, their symbols independent given x_t.

    `guess` is the law of x_0, a point where x_0 is known; where a symbol is known already it must say so.
    """

    process: Masking
    guess: Categorical | Digits | Dirac
    xt: Tensor
    before: Tensor
    after: Tensor

    def sample(self, rng: Rng) -> Tensor:
        x0 = self.guess.sample(rng).to(self.xt.device)
        process = self.process
        symbol = torch.where(self.after > self.before, process.coarse(x0, self.after), process.symbol(self.xt))
        return process.join(symbol, process.rank(self.xt))

    draw = sample

    def log_prob(self, x: Tensor) -> Tensor:
        """Of the symbols of x (a state, or data as a state) whose turn it is."""
        process, guess, symbol = self.process, self.guess, self.process.symbol(x)
        if isinstance(guess, Digits):
            return sum_event(torch.where(self._stages(guess), guess.each(symbol), 0.0))
        if isinstance(guess, Dirac):
            same = process.coarse(symbol, self.after) == process.coarse(guess.mean.to(symbol), self.after)
            log_p = torch.where(same, 0.0, -torch.inf).double()
        elif process.stages == 1:
            log_p = guess.log_probs.double().gather(-1, symbol[..., None])[..., 0]
        else:
            log_probs = guess.log_probs.double()
            k = torch.arange(process.tokens, device=log_probs.device)
            same = self._groups(k.expand_as(log_probs)) == self._groups(symbol[..., None])
            log_p = log_probs.masked_fill(~same, -torch.inf).logsumexp(-1)
        return sum_event(torch.where(self.after > self.before, log_p, 0.0))

    def kl(self, other: Law) -> Tensor:
        if not isinstance(other, Revealed) or isinstance(other.guess, Dirac) > isinstance(self.guess, Dirac):
            return Law.kl(self, other)
        if isinstance(self.guess, Dirac):
            return -other.log_prob(self.guess.mean)
        if isinstance(self.guess, Digits) and isinstance(other.guess, Digits):
            return sum_event(torch.where(self._stages(self.guess), self.guess.apart(other.guess), 0.0))
        p, q = self._together(), other._together()
        each = torch.where(p.isinf(), 0.0, p.exp() * (p - q)).sum(-1)
        return sum_event(torch.where(self.after > self.before, each, 0.0))

    def _stages(self, guess: Digits) -> Tensor:
        """Which digits it is the turn of, bool (*x.shape, stages)."""
        stage = torch.arange(self.process.stages, device=guess.log_probs.device)
        return (self.before[..., None] <= stage) & (stage < self.after[..., None])

    def _groups(self, symbol: Tensor) -> Tensor:
        return symbol.div(self.process.width(self.after)[..., None], rounding_mode="floor")

    def _together(self) -> Tensor:
        """Log-probabilities of what looks alike at the depth after, float64 (..., tokens), the places left over at -inf."""
        log_probs = (self.guess.mean.log() if isinstance(self.guess, Digits) else self.guess.log_probs).double()  # type: ignore[union-attr]
        if self.process.stages == 1:
            return log_probs
        k = torch.arange(self.process.tokens, device=log_probs.device)
        groups = self._groups(k.expand_as(log_probs))
        return torch.zeros_like(log_probs).scatter_add_(-1, groups, log_probs.exp()).log()
