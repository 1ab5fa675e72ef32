r"""Sequences of tokens whose every conditional is known: a joint written out, and a Markov chain.

What a state x_t tells of x_0 is, token by token, p(x_t^i | x_0^i = z); a MASK tells nothing, any other token of an absorbing
process all. Given that evidence, `given` has the law of each token of x_0: by summing over all sequences, or forwards and
backwards along the chain.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Categorical
from ..processes import Jump, Masking, Process
from ..rng import Rng

MOST = 1 << 20


class Sequences(nn.Module):
    """A law of sequences of `length` tokens out of `tokens`."""

    length: int
    tokens: int

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats (batch,), of x (batch, length) int64."""

    @abstractmethod
    def given(self, log_evidence: Tensor) -> Tensor:
        """log p(x^i = z | evidence), from the evidence's log-likelihoods; both (batch, length, tokens), float64."""

    @abstractmethod
    def sample(self, rng: Rng) -> Tensor:
        """One sequence for each stream, int64."""

    def denoiser(self, process: Jump | Masking) -> SequenceDenoiser:
        """The exact denoiser of these sequences under a process."""
        return SequenceDenoiser(self, process)


class SequenceDenoiser(Denoiser[Process]):
    """The law of each token of x_0 given all of x_t."""

    process: Jump | Masking

    def __init__(self, law: Sequences, process: Jump | Masking):
        super().__init__()
        if process.tokens != law.tokens:
            raise UsageProblem(f"sequences of {law.tokens} tokens do not fit a process of {process.tokens}")
        self.law, self.process = law, process

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Categorical:
        return Categorical(self.law.given(self.process.log_evidence(xt, t)))


class Joint(Sequences):
    """Any law of few sequences: `weights` of 0 or more with an axis of the same size for each position."""

    log_weights: Tensor

    def __init__(self, weights: Tensor):
        super().__init__()
        if len(set(weights.shape)) != 1 or weights.numel() > MOST:
            raise UsageProblem(
                f"a joint of shape {tuple(weights.shape)} is not possible; it needs equal axes, at most {MOST}"
            )
        self.length, self.tokens = weights.ndim, weights.shape[0]
        self.register_buffer("log_weights", (weights.double() / weights.sum()).log())

    @property
    def every(self) -> Tensor:
        """All sequences, (tokens^length, length), in the order of the flattened weights."""
        axes = [torch.arange(self.tokens)] * self.length
        return torch.cartesian_prod(*axes).reshape(-1, self.length)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_weights[tuple(x.unbind(-1))]

    def given(self, log_evidence: Tensor) -> Tensor:
        every = self.every
        told = sum(log_evidence[:, i][:, every[:, i]] for i in range(self.length))
        log_joint = self.log_weights.flatten() + told
        log_joint = log_joint - log_joint.logsumexp(-1, keepdim=True)
        where = F.one_hot(every, self.tokens).double()  # (sequences, length, tokens)
        return torch.einsum("bs,slk->blk", log_joint.exp(), where).log()

    def sample(self, rng: Rng) -> Tensor:
        return self.every[Categorical(self.log_weights.flatten().expand(len(rng), -1)).sample(rng)]


class MarkovChain(Sequences):
    """Tokens that depend on the one before: `transition[a, b]` is p(b after a), the first token by `initial`, or by the law
    that the chain keeps."""

    transition: Tensor
    initial: Tensor

    def __init__(self, transition: Tensor, length: int, initial: Tensor | None = None):
        super().__init__()
        p = transition.double()
        if p.ndim != 2 or p.shape[0] != p.shape[1] or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-6:
            raise UsageProblem("the transitions of a chain are a square matrix of probabilities whose rows sum to 1")
        p = p / p.sum(1, keepdim=True)
        self.length, self.tokens = length, len(p)
        self.register_buffer("transition", p)
        self.register_buffer("initial", _kept(p) if initial is None else initial.double() / initial.sum())

    @classmethod
    def fit(cls, x: Tensor, tokens: int, length: int | None = None, prior: float = 0.5) -> MarkovChain:
        """The chain of the pairs in x (batch, length), each counted `prior` times more than it occurs."""
        pairs = (x[:, :-1] * tokens + x[:, 1:]).flatten()
        counts = torch.bincount(pairs, minlength=tokens**2).reshape(tokens, tokens).double() + prior
        return cls(counts / counts.sum(1, keepdim=True), x.shape[1] if length is None else length)

    @property
    def entropy(self) -> float:
        """Of a sequence, nats."""
        law, total = self.initial, -float(torch.special.xlogy(self.initial, self.initial).sum())
        rows = -torch.special.xlogy(self.transition, self.transition).sum(1)
        for _ in range(self.length - 1):
            total += float(law @ rows)
            law = law @ self.transition
        return total

    def costs(self) -> Tensor:
        r"""What a token costs with exact conditionals when e of D are known, in the mean over sequences and over which e, nats, by
        e, float64 (D,):

            D C(D-1, e) L_e = sum_{a, b} (D - a - b) C(D-1-a-b, e-2) H_ab + sum_a C(D-a, e) (H_a + H^a) + D [e = 0] H

        where H is the entropy of a token, H_a, H^a that given the token a places before, or after, and H_ab given both: the
        nearest known ones. Raises UsageProblem for a chain that does not keep the law of its first token."""
        length, first = self.length, self.initial
        if (first @ self.transition - first).abs().max() > 1e-9:
            raise UsageProblem(
                "what tokens cost is known of chains that keep their law; leave the law of the first token out"
            )
        powers = [torch.eye(self.tokens, dtype=torch.float64)]
        for _ in range(length):
            powers.append(powers[-1] @ self.transition)

        def entropy(p: Tensor) -> float:
            return -float(torch.special.xlogy(p, p).sum())

        def between(a: int, b: int) -> float:
            both = (first[:, None] * powers[a])[:, :, None] * powers[b]
            return entropy(both) - entropy(both.sum(1))

        alone = entropy(first)
        pairs = [
            2 * (entropy(first[:, None] * p) - alone) for p in powers
        ]  # H_a + H^a: both are the pair's less one token's
        inside = [sum(between(a, d - a) for a in range(1, d)) for d in range(length)]  # by a + b
        found = []
        for e in range(length):
            total = length * alone if e == 0 else sum(math.comb(length - a, e) * pairs[a] for a in range(1, length))
            if e > 1:
                total += sum((length - d) * math.comb(length - 1 - d, e - 2) * inside[d] for d in range(2, length))
            found.append(total / (length * math.comb(length - 1, e)))
        return torch.tensor(found, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.initial.log()[x[:, 0]] + self.transition.log()[x[:, :-1], x[:, 1:]].sum(1)

    def given(self, log_evidence: Tensor) -> Tensor:
        evidence = (log_evidence - log_evidence.amax(-1, keepdim=True)).exp()
        before, after = [self.initial * evidence[:, 0]], [torch.ones_like(evidence[:, 0])]
        for i in range(1, evidence.shape[1]):
            before.append(_scaled(before[-1]) @ self.transition * evidence[:, i])
        for i in range(evidence.shape[1] - 1, 0, -1):
            after.append(_scaled(after[-1] * evidence[:, i]) @ self.transition.T)
        joint = torch.stack(before, 1) * torch.stack(after[::-1], 1)
        return _scaled(joint).log()

    def sample(self, rng: Rng) -> Tensor:
        x = [Categorical(self.initial.log().expand(len(rng), -1)).sample(rng)]
        for _ in range(self.length - 1):
            x.append(Categorical(self.transition.log()[x[-1]]).sample(rng))
        return torch.stack(x, 1)


def _scaled(p: Tensor) -> Tensor:
    total = p.sum(-1, keepdim=True)
    if bool((total == 0).any()):
        raise UsageProblem("a state has no sequence that could lie behind it; give the chain transitions above 0")
    return p / total


def _kept(transition: Tensor) -> Tensor:
    """The law that a chain keeps: p transition = p."""
    n = len(transition)
    system = torch.cat([transition.T - torch.eye(n, dtype=torch.float64), torch.ones(1, n, dtype=torch.float64)])
    target = F.one_hot(torch.tensor(n), n + 1).double()
    p = torch.linalg.lstsq(system, target[:, None]).solution[:, 0].clamp(min=0)
    if not math.isclose(float(p.sum()), 1, rel_tol=1e-6):
        raise UsageProblem("these transitions keep no law; give the chain an initial one")
    return p / p.sum()
