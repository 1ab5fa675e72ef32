"""Tokens that are known: prompts, and texts with gaps, on any process of tokens and with every sampler.

The network sees what is known in its place at every time, and what is known is its guess there. For an absorbing process this
conditions exactly, since a token that is not masked is one of x_0. For the uniform one it conditions the law of x_t in place of
that of x_0, which is the same at the end of the walk only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..kinds.text import Text
from ..laws import Pinned
from .denoiser import Cond, Denoiser
from .guidance import Guidance, Guided

if TYPE_CHECKING:
    from ..kinds.kind import About

GAP = "_"


def clamped(x: Tensor, known: Tensor) -> Guidance:
    """x_0 is `x` where `known` is true; both (length,), or (batch, length) with one for each example."""
    if x.shape[-1:] != known.shape[-1:]:
        raise UsageProblem(f"{x.shape[-1]} tokens do not fit a mask of {known.shape[-1]}; give one for each")

    def rule(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond):
        seen = torch.where(known.to(xt.device), x.to(xt), xt)
        return Pinned(denoiser(seen, t, cond), known, x)

    return lambda denoiser: Guided(denoiser, rule)  # type: ignore[arg-type]


def prompted(about: About, text: str) -> Guidance:
    """What a user wrote, from the first place on: "the _____ of the". Low lines are gaps to fill, unless the alphabet has one;
    what follows the text is free. Raises Problem or UsageProblem for what a model cannot say."""
    if about.kind != "text":
        raise UsageProblem(
            f"a prompt is the beginning of a text, and this model knows {about.kind}; leave --prompt out"
        )
    length = about.shape[0]
    if len(text) > length:
        raise UsageProblem(f"the prompt has {len(text)} characters, and this model writes {length}; shorten it")
    gap = GAP not in (about.alphabet or ())
    letters = "".join(c for c in text if not (gap and c == GAP))
    known = torch.tensor([not (gap and c == GAP) for c in text] + [False] * (length - len(text)), dtype=torch.bool)
    x = torch.zeros(length, dtype=torch.int64)
    x[known] = Text().tokens(letters, about)
    return clamped(x, known)
