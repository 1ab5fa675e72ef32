"""A data set: facts about it, and batches from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UsageProblem
from .levels import from_levels, to_levels, to_uint8
from .pixels import InMemory, Pixels


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before any row is read."""

    name: str
    shape: tuple[int, ...]  # of images: channels, height, width
    train: int  # rows
    held_out: int
    rule: str  # how the held-out rows are chosen
    licence: str
    source: str
    citation: str = ""
    classes: tuple[str, ...] | None = None
    levels: int = 256
    captions: bool = False
    kind: str = "images"
    alphabet: tuple[str, ...] | None = None  # of text: what each token stands for
    rate: int | None = None  # of sound: samples a second
    manifold: str | None = None  # of points: where they lie


@dataclass(frozen=True)
class Batch:
    """Rows of a data set: `x` as a model sees them (of images float32 in [-1, 1], (batch, channel, height, width)), `label`
    int64 (batch,), captions."""

    x: Tensor
    label: Tensor | None = None
    caption: list[str] | None = None

    @property
    def cond(self) -> dict[str, Tensor] | None:
        """The conditions a network takes: {"label": (batch,)}, where -1 is "no label"; None without labels."""
        return None if self.label is None else {"label": self.label}

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Batch:
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return replace(self, x=self.x.to(device, non_blocking=True), label=label)


class DataSet:
    """The rows of one split of a data set.

    name, split        "train" or "held-out"
    kind               images, text, sound or points (`unnoise.kinds`)
    shape              of one row: (channels, height, width) of images
    classes            their names in the order of the labels, or None
    levels             K: pixels of images are the integers 0..K-1, seen by models as x = 2k/(K-1) - 1
    has_captions       whether batches carry captions ("" for a row that has none)
    names              a name for each row where the source has one (a relative path, a code point), or None
    licence, source, citation, rule (how the held-out rows are chosen)
    """

    def __init__(
        self,
        facts: Facts,
        split: str,
        pixels: Pixels | Tensor,
        labels: Tensor | None = None,
        captions: list[str] | None = None,
        names: list[str] | None = None,
        fingerprint: str | None = None,
    ):
        self.facts, self.split = facts, split
        self.pixels = InMemory(pixels) if isinstance(pixels, Tensor) else pixels
        self.labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        self.captions, self.names, self._fingerprint = captions, names, fingerprint
        self.name, self.shape, self.classes, self.levels = facts.name, facts.shape, facts.classes, facts.levels
        self.kind, self.alphabet, self.rate, self.manifold = facts.kind, facts.alphabet, facts.rate, facts.manifold
        self.licence, self.source, self.citation, self.rule = facts.licence, facts.source, facts.citation, facts.rule
        self.has_captions = captions is not None
        if tuple(self.pixels.shape) != tuple(facts.shape):
            raise ValueError(f"the facts say {facts.shape}, the rows are {self.pixels.shape}")
        for column in (self.labels, captions, names):
            if column is not None and len(column) != len(self):
                raise ValueError(f"{len(self)} rows, but a column of {len(column)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        kinds = "" if self.classes is None else f", {len(self.classes)} classes"
        return f"DataSet({self.name!r}, {self.split!r}, {len(self)} {self.kind} {self.shape}{kinds})"

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The rows at `indices` (any integers 0..len-1, repeats allowed), as a model sees them."""
        from ..kinds import kind_of

        indices = torch.as_tensor(indices, dtype=torch.int64)
        label = None if self.labels is None else self.labels.index_select(0, indices)
        caption = None if self.captions is None else [self.captions[i] for i in indices.tolist()]
        return Batch(kind_of(self.facts).decode(self.pixels.take(indices), self.facts), label, caption)

    def images(self, limit: int | None = None) -> Tensor:
        """The first `limit` images (default all) as uint8 pixels 0..255 (count, channel, height, width).

        Sets with fewer grey levels are stretched to 0..255, so that metrics and pictures see one scale.
        Raises UsageProblem where the rows are no images.
        """
        if self.kind != "images":
            raise UsageProblem(f"{self.name} is {self.kind}, not images; choose another data set")
        count = len(self) if limit is None else min(limit, len(self))
        parts = [self.pixels.take(torch.arange(i, min(i + 1024, count))) for i in range(0, count, 1024)]
        return to_uint8(torch.cat(parts) if parts else torch.empty(0, *self.shape, dtype=torch.uint8), self.levels)

    def to_levels(self, x: Tensor) -> Tensor:
        """Floats in [-1, 1] -> the nearest of this set's levels 0..K-1, int64."""
        return to_levels(x, self.levels)

    def from_levels(self, k: Tensor) -> Tensor:
        """This set's levels 0..K-1 -> floats in [-1, 1]."""
        return from_levels(k, self.levels)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when the images, labels, captions, shape or split do: a run folder records it.

        Of sets in memory it covers every pixel; of folders, every relative path and file size; of hub sets, the
        columns, the number of rows and 64 rows spread over the set.
        """
        content = self._fingerprint or self.pixels.digest()
        parts = [self.split, str(tuple(self.shape)), str(self.levels), str(self.classes), content]
        if self.kind != "images":
            parts.append(str((self.kind, self.alphabet, self.rate, self.manifold)))
        if self.labels is not None:
            parts.append(hashlib.sha256(self.labels.numpy().tobytes()).hexdigest())
        if self.captions is not None:
            parts.append(hashlib.sha256("\0".join(self.captions).encode()).hexdigest())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
