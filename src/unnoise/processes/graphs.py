r"""Graphs: which tokens a jump process exchanges, and all that follows of its generator Q (2310.16834).

Q[y, x] is the rate of x -> y in units of the total noise; columns sum to 0. After total noise a the law of a token is
exp(a Q) p, with

    uniform   Q = 1 1^T / n - I:     exp(a Q) v = e^-a v + (1 - e^-a) / n sum(v)
    absorb    every token to MASK:   exp(a Q) v = e^-a v at tokens, v_MASK + (1 - e^-a) sum of the others at MASK

Vectors have one number for each state in their last axis. `total` is a float, or a tensor that broadcasts against them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageProblem
from ..rng import Rng
from ..scalars import Scalar, expm1


class Graph(ABC):
    """`tokens` symbols, and `states` that a position may have: MASK, where there is one, is state number `tokens`."""

    name: str = ""

    def __init__(self, tokens: int):
        if tokens < 2:
            raise UsageProblem(f"an alphabet of {tokens} tokens has nothing to guess; it needs 2 or more")
        self.tokens = tokens

    @property
    def states(self) -> int:
        return self.tokens

    @abstractmethod
    def apply(self, total: Scalar, v: Tensor) -> Tensor:
        """exp(total Q) v, for negative totals too."""

    @abstractmethod
    def row(self, total: Scalar, x: Tensor) -> Tensor:
        """exp(total Q)[x, y] for every y: the probabilities with which each y becomes x. float64 (*x.shape, states)."""

    @abstractmethod
    def edges(self, x: Tensor) -> Tensor:
        """Q[x, y] for every y but x, where it is 0. float64 (*x.shape, states)."""

    @abstractmethod
    def struck(self, x0: Tensor, rng: Rng) -> Tensor:
        """What tokens become that are struck by noise, of any strength."""

    @abstractmethod
    def score_entropy(self, log_ratios: Tensor, xt: Tensor, x0: Tensor, total: Tensor) -> Tensor:
        r"""sum_{y != x} Q[x, y] (s_y - r_y log s_y + r_y (log r_y - 1)) of each position, with s the guessed ratios
        p_t(y)/p_t(x) and r those given x_0; it is 0 where they agree. `total` (batch, 1, ...) broadcasts against x."""

    def squared_error(self, log_ratios: Tensor, xt: Tensor, x0: Tensor, total: Tensor) -> Tensor:
        """1/2 sum_{y != x} Q[x, y] (s_y - r_y)^2 of each position, as concrete score matching has it (2211.00802)."""
        law = self.column(total[..., None], x0)
        wanted = law / law.gather(-1, xt[..., None])
        return (self.edges(xt) * (log_ratios.exp() - wanted.to(log_ratios.dtype)) ** 2).sum(-1) / 2

    def column(self, total: Scalar, x0: Tensor) -> Tensor:
        """exp(total Q)[y, x_0] for every y: the law of x_t. float64 (*x0.shape, states)."""
        return self.apply(total, F.one_hot(x0, self.states).double())

    def one_hot(self, x: Tensor) -> Tensor:
        return F.one_hot(x, self.states).double()


class UniformGraph(Graph):
    """A struck token is drawn anew, evenly from all, itself included."""

    name = "uniform"

    def apply(self, total: Scalar, v: Tensor) -> Tensor:
        fresh = -expm1(-total)
        return (1 - fresh) * v + fresh / self.tokens * v.sum(-1, keepdim=True)

    def row(self, total: Scalar, x: Tensor) -> Tensor:
        return self.column(total, x)  # Q is symmetric

    def edges(self, x: Tensor) -> Tensor:
        return (1 - self.one_hot(x)) / self.tokens

    def struck(self, x0: Tensor, rng: Rng) -> Tensor:
        return rng.integers(self.tokens, *x0.shape[1:]).to(x0.device)

    def score_entropy(self, log_ratios: Tensor, xt: Tensor, x0: Tensor, total: Tensor) -> Tensor:
        n, dtype = self.tokens, log_ratios.dtype
        kept = xt == x0
        odds = torch.expm1(total).double()
        rho = odds / (odds + n)  # r of every other token where x_t is x_0; 1/rho that of x_0 where it is not
        log_rho = rho.log()
        whole = (n - 1) / n * rho * (log_rho - 1)
        broken = (-(log_rho + 1) / rho - (n - 2)) / n
        mean = log_ratios.mean(-1)  # that of x itself is 0
        at_x0 = log_ratios.gather(-1, x0[..., None]).squeeze(-1)
        pull = torch.where(kept, rho.to(dtype) * mean, (1 / odds).to(dtype) * at_x0 + mean)
        return log_ratios.exp().mean(-1) - 1 / n - pull + torch.where(kept, whole, broken).to(dtype)


class AbsorbGraph(Graph):
    """A struck token becomes MASK, and stays it."""

    name = "absorb"

    @property
    def states(self) -> int:
        return self.tokens + 1

    @property
    def mask(self) -> int:
        return self.tokens

    def apply(self, total: Scalar, v: Tensor) -> Tensor:
        fresh, tokens = -expm1(-total), v[..., :-1]
        return torch.cat([(1 - fresh) * tokens, v[..., -1:] + fresh * tokens.sum(-1, keepdim=True)], -1)

    def row(self, total: Scalar, x: Tensor) -> Tensor:
        fresh, one = -expm1(-total), self.one_hot(x)
        masked = (x == self.mask)[..., None]
        return torch.where(masked, fresh + (1 - fresh) * one, (1 - fresh) * one)

    def edges(self, x: Tensor) -> Tensor:
        return (x == self.mask)[..., None] * (1 - self.one_hot(x))

    def struck(self, x0: Tensor, rng: Rng) -> Tensor:
        return torch.full_like(x0, self.mask)

    def score_entropy(self, log_ratios: Tensor, xt: Tensor, x0: Tensor, total: Tensor) -> Tensor:
        dtype = log_ratios.dtype
        r = (1 / torch.expm1(total)).double()  # the ratio of x_0 to MASK, all others' being 0
        tokens = log_ratios[..., :-1]
        at_x0 = tokens.gather(-1, x0[..., None]).squeeze(-1)
        terms = tokens.exp().sum(-1) - r.to(dtype) * at_x0 + (r * (r.log() - 1)).to(dtype)
        return torch.where(xt == self.mask, terms, 0.0)


GRAPHS: dict[str, type[Graph]] = {graph.name: graph for graph in (UniformGraph, AbsorbGraph)}
