"""The protocol of text encoders, and where they are found by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UsageProblem

ABSENT = {True: math.nan, False: -1}
"""What stands where there is no token: NaN among vectors (True: floating point), -1 among numbers."""

ENCODERS = ("words", "minilm", "ids:NAME", "t5:NAME", "clip:NAME")
"""Their names; NAME is that of a model for `transformers`, such as t5:google/flan-t5-small, or its folder."""


class TextEncoder(Protocol):
    """Captions as tokens, at most `length` each.

    encode   int64 (batch, length), numbers below `rows`, -1 where a caption has ended: their meaning is learned with the
             network; or float32 (batch, length, width) of a frozen encoder, NaN there (`rows` is None).
    null     the empty caption "", which dropping a caption amounts to: no token at all.
    """

    @property
    def length(self) -> int: ...
    @property
    def rows(self) -> int | None: ...
    @property
    def width(self) -> int: ...

    def encode(self, captions: Sequence[str]) -> Tensor: ...


def present(tokens: Tensor) -> Tensor:
    """Which tokens there are, bool (batch, length)."""
    return ~tokens[..., 0].isnan() if tokens.is_floating_point() else tokens >= 0


def padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """Captions of different length, each (tokens, ...), cut or filled up to `length`."""
    first = rows[0]
    absent = ABSENT[first.is_floating_point()]
    out = torch.full((len(rows), length, *first.shape[1:]), absent, dtype=first.dtype)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row[:length]
    return out


@cache
def encoder(name: str, length: int, vocabulary: tuple[str, ...] = ()) -> TextEncoder:
    """The encoder of a name of ENCODERS; "words" knows those of a vocabulary. Raises UsageProblem for other names.

    Frozen encoders are loaded when the first caption is encoded, and remember what they encoded.
    """
    from .frozen import MINILM_WIDTH, Frozen, Ids, MiniLM, Pretrained
    from .words import Words

    kind, _, model = name.partition(":")
    if name == "words":
        return Words(vocabulary, length)
    if name == "minilm":
        return Frozen(MiniLM, length, MINILM_WIDTH)
    if model and kind == "ids":
        return Ids(model, length)
    if model and kind in ("t5", "clip"):
        return Frozen(lambda: Pretrained(kind, model), length)
    raise UsageProblem(f"{name!r} is no text encoder; there are {', '.join(ENCODERS)}")
