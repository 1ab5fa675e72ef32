"""A text whose every symbol depends on the two before it: every conditional exactly, from both sides."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Categorical
from ..rng import Rng
from .sequences import Sequences


class Trigrams(Sequences):
    """A Markov chain of second order: `transition[a, b, c]` is p(c after a, b); the first two by `initial` (tokens, tokens), or
    by the law that the chain keeps."""

    transition: Tensor
    initial: Tensor

    def __init__(self, transition: Tensor, length: int, initial: Tensor | None = None):
        super().__init__()
        p = transition.double()
        if p.ndim != 3 or len(set(p.shape)) != 1 or (p < 0).any() or (p.sum(2) - 1).abs().max() > 1e-9:
            raise UsageProblem(
                "the transitions of trigrams are a cube of probabilities that sum to 1 over its last axis"
            )
        if length < 2:
            raise UsageProblem(f"a sequence of trigrams has 2 symbols or more, not {length}")
        self.length, self.tokens = length, len(p)
        self.register_buffer("transition", p)
        self.register_buffer("initial", _kept(p) if initial is None else initial.double() / initial.sum())

    @classmethod
    def fit(cls, x: Tensor, tokens: int, length: int | None = None, prior: float = 0.01) -> Trigrams:
        """The chain of the triples in x (batch, length), each counted `prior` times more than it occurs."""
        triples = ((x[:, :-2] * tokens + x[:, 1:-1]) * tokens + x[:, 2:]).flatten()
        counts = torch.bincount(triples, minlength=tokens**3).reshape((tokens,) * 3).double() + prior
        return cls(counts / counts.sum(2, keepdim=True), x.shape[1] if length is None else length)

    def log_prob(self, x: Tensor) -> Tensor:
        following = self.transition.log()[x[:, :-2], x[:, 1:-1], x[:, 2:]]
        return self.initial.log()[x[:, 0], x[:, 1]] + following.sum(1)

    def given(self, log_evidence: Tensor) -> Tensor:
        """Forwards and backwards over pairs (x_i, x_{i+1})."""
        evidence = (log_evidence - log_evidence.amax(-1, keepdim=True)).exp()
        first = self.initial * evidence[:, 0, :, None] * evidence[:, 1, None, :]
        before, after = [_scaled(first)], [torch.ones_like(first)]
        for i in range(2, evidence.shape[1]):
            step = torch.einsum("nab,abc->nbc", before[-1], self.transition) * evidence[:, i, None, :]
            before.append(_scaled(step))
        for i in range(evidence.shape[1] - 1, 1, -1):
            step = torch.einsum("nbc,abc->nab", after[-1] * evidence[:, i, None, :], self.transition)
            after.append(_scaled(step))
        pairs = torch.stack(before, 1) * torch.stack(after[::-1], 1)  # (batch, length - 1, tokens, tokens)
        pairs = pairs / pairs.sum((2, 3), keepdim=True)
        return torch.cat([pairs.sum(3), pairs[:, -1:].sum(2)], 1).log()

    def sample(self, rng: Rng) -> Tensor:
        pair = Categorical(self.initial.flatten().log().expand(len(rng), -1)).sample(rng)
        x, following = [pair // self.tokens, pair % self.tokens], self.transition.log()
        while len(x) < self.length:
            x.append(Categorical(following[x[-2], x[-1]]).sample(rng))
        return torch.stack(x, 1)


def _scaled(p: Tensor) -> Tensor:
    total = p.sum((1, 2), keepdim=True)
    if bool((total == 0).any()):
        raise UsageProblem("a state has no sequence that could lie behind it; give the chain transitions above 0")
    return p / total


def _kept(transition: Tensor) -> Tensor:
    """The law of pairs that the chain keeps, by following it until it stands still."""
    p = torch.full(transition.shape[:2], 1 / transition.shape[0] ** 2, dtype=torch.float64)
    for _ in range(10_000):
        following = torch.einsum("ab,abc->bc", p, transition)
        if float((following - p).abs().sum()) < 1e-14:
            return following / following.sum()
        p = following
    raise UsageProblem("these transitions keep no law, or are slow to reach it; give the chain an initial one")
