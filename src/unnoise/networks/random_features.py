r"""Random features: a layer that stays as it was drawn, and a linear one that learns; its whole training in closed form.

    F(x, t) = A phi(x, t) / m,    phi = relu(W x + U e(t)),    W, U fixed,   A trained from 0

Mean square error is quadratic in A, so gradient flow in the training time tau solves a linear equation (`GradientFlow`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..rng import stream
from .options import Options


@dataclass(frozen=True)
class RandomFeaturesOptions(Options):
    """How many random features there are, and how they are drawn."""

    width: int = 200
    """Features m: the capacity of the model."""
    spread: float = 2.0
    """Standard deviation of a feature's response to an input of unit variance, and of its constant part."""
    seed: int = 0
    """Names the draw of W and U."""

    def build(self, event: Sequence[int]) -> RandomFeatures:
        """The network for examples of shape `event`, as it is before training: it gives 0."""
        return RandomFeatures(self, event)


class RandomFeatures(nn.Module):
    """`network(x, t) -> A relu(W x + u t + b) / m` for x: (batch, *event), t: (batch,); only `A`, (d, m), is trained.

    W has elements N(0, spread^2 / d), u N(0, 1) and b N(0, spread^2), so that inputs of unit variance and a t of order one
    (a log noise level) put the kinks of the features among the data. They are buffers: a checkpoint holds them.
    """

    W: Tensor
    u: Tensor
    b: Tensor

    def __init__(self, options: RandomFeaturesOptions, event: Sequence[int]):
        super().__init__()
        self.options, self.event = options, tuple(event)
        m, d = options.width, math.prod(self.event)
        if m < 1:
            raise UsageProblem(f"{m} random features are not possible; choose a width of at least 1")
        random = torch.randn(m, d + 2, generator=stream(options.seed, m, d), dtype=torch.float64, device="cpu")
        self.register_buffer("W", (options.spread / math.sqrt(d) * random[:, :d]).float())
        self.register_buffer("u", random[:, d].float())
        self.register_buffer("b", (options.spread * random[:, d + 1]).float())
        self.A = nn.Parameter(torch.zeros(d, m))

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """phi(x, t), (batch, m), in the type of x."""
        W, u, b = (value.to(x.dtype) for value in (self.W, self.u, self.b))
        return torch.relu(x.flatten(1) @ W.T + t.to(x.dtype)[:, None] * u + b)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        if cond:
            raise UsageProblem("a model of random features takes no conditions; leave the labels out")
        return (self.features(x, t) @ self.A.to(x.dtype).T / self.options.width).reshape(x.shape)


class GradientFlow:
    r"""Training by gradient flow, dA/dtau = -grad L(A), of L(A) = E w |A phi / m - y|^2 from A = 0, at every tau at once:

        A(tau) = m B G^+ (I - exp(-2 tau G / m^2)),    G = E[w phi phi^T],    B = E[w y phi^T]

    gram      G, (m, m); cross B, (d, m); power E[w |y|^2].
    tau       learning rate x steps, for the loss as written: with the output's 1/m, the time scale grows as m^2.

    G is taken apart once. In directions that no example excites A stays 0, as it does in training. In float64.
    """

    def __init__(self, gram: Tensor, cross: Tensor, power: float):
        self.gram, self.cross, self.power = gram.double(), cross.double(), float(power)
        self.m = len(gram)
        if cross.shape[1] != self.m or gram.shape != (self.m, self.m):
            raise UsageProblem(f"moments of shapes {tuple(gram.shape)} and {tuple(cross.shape)} are not of one model")
        values, self.vectors = torch.linalg.eigh(self.gram)
        self.values = values.clamp(min=0)
        self.excited = values > values[-1] * self.m * torch.finfo(torch.float64).eps
        self.along = self.cross @ self.vectors

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, weights: Tensor | None = None, power: float | None = None):
        """From examples or quadrature nodes: features (n, m), targets (n, d), weights (n,) that sum to 1.

        `power` is E[w |y|^2] where the targets are means of y given the features, whose own power would be too low.
        """
        phi, y = features.double(), targets.double()
        w = torch.full_like(phi[:, 0], 1 / len(phi)) if weights is None else weights.double()
        weighted = phi * w[:, None]
        power = float((w[:, None] * y * y).sum()) if power is None else power
        return cls(phi.T @ weighted, y.T @ weighted, power)

    def weights(self, tau: float = math.inf) -> Tensor:
        """A(tau), (d, m); at infinity the least-squares solution of least norm."""
        rate = 2 / self.m**2
        grown, v = torch.zeros_like(self.values), self.values[self.excited]
        grown[self.excited] = -torch.expm1(-rate * tau * v) / v
        return self.m * (self.along * grown) @ self.vectors.T

    def ridge(self, penalty: float) -> Tensor:
        """The minimiser of L(A) + penalty |A|^2 / m^2, (d, m)."""
        return self.m * (self.along / (self.values + penalty)) @ self.vectors.T

    def loss(self, A: Tensor) -> float:
        """L(A), by these moments: not only of this flow's own A."""
        a = A.double() / self.m
        return float(((a @ self.gram - 2 * self.cross) * a).sum() + self.power)
