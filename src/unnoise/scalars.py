"""The few functions that solver arithmetic needs, for Python floats and tensors alike.

A solver's coefficients are plain floats (64-bit, and hundreds of times cheaper than a tensor of one number) unless the
process has one coefficient per frequency or per example; then the same formula runs on tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Scalar = float | Tensor


def sqrt(a: Scalar) -> Scalar:
    return a.sqrt() if isinstance(a, Tensor) else math.sqrt(a)


def expm1(a: Scalar) -> Scalar:
    return a.expm1() if isinstance(a, Tensor) else math.expm1(a)


def log(a: Scalar) -> Scalar:
    """Natural logarithm, -inf at zero (as torch has it)."""
    if isinstance(a, Tensor):
        return a.log()
    return math.log(a) if a > 0 else -math.inf


def times(coefficient: Scalar, x: Tensor) -> Tensor:
    """`coefficient * x` in the type of `x`: coefficients are computed in float64 and cast last."""
    if isinstance(coefficient, Tensor):
        return x * coefficient.to(x.dtype)
    return x if coefficient == 1 else x * coefficient


def column(c: Tensor, like: Tensor) -> Tensor:
    """One number for each example, (batch,), shaped to broadcast against `like`, (batch, ...)."""
    return c.reshape(-1, *[1] * (like.ndim - 1))


def plus(x: Tensor, coefficient: Scalar, y: Tensor) -> Tensor:
    """`x + coefficient * y`, in one pass over memory where the coefficient is a float: what a step costs is its passes."""
    return x + times(coefficient, y) if isinstance(coefficient, Tensor) else torch.add(x, y, alpha=coefficient)


def combine(*terms: tuple[Scalar, Tensor]) -> Tensor:
    """The sum of coefficient times tensor, in the tensors' type: a pass over memory for each term, into what is its own."""
    (first, x), *rest = terms
    out = times(first, x)
    own = out is not x
    for c, y in rest:
        out = out.add_(y, alpha=c) if own and not isinstance(c, Tensor) else plus(out, c, y)
        own = True
    return out
