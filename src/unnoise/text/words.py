"""Captions as the words that a model knows."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import UsageProblem


def words_of(caption: str) -> list[str]:
    """Runs of letters or digits, in lower case; any other symbol stands alone."""
    return re.findall(r"[^\W_]+|[^\w\s]|_", caption.lower())


def vocabulary_of(captions: Iterable[str], most: int = 4096) -> tuple[str, ...]:
    """The words of captions, the most frequent first, at most so many."""
    count = Counter(word for caption in captions for word in words_of(caption))
    return tuple(sorted(count, key=lambda word: (-count[word], word))[:most])


class Words:
    """Numbers of the words of a vocabulary; others are left out."""

    width = 0

    def __init__(self, vocabulary: Sequence[str], length: int):
        self.length, self.rows = length, len(vocabulary)
        self.number = {word: i for i, word in enumerate(vocabulary)}

    def encode(self, captions: Sequence[str]) -> Tensor:
        from .encoder import padded

        return padded([self._one(caption) for caption in captions], self.length)

    def _one(self, caption: str) -> Tensor:
        return torch.tensor([self.number[w] for w in words_of(caption) if w in self.number], dtype=torch.int64)

    def check(self, caption: str) -> None:
        """Says which words of a user's caption are unknown; refuses one of which none is known."""
        words = words_of(caption)
        strange = [w for w in words if w not in self.number]
        if words and len(strange) == len(words):
            raise UsageProblem(f"this model knows no word of {caption!r}; it knows those of its training captions")
        if strange:
            warnings.warn(
                f"this model does not know {', '.join(map(repr, strange))}, and leaves that out", stacklevel=2
            )
