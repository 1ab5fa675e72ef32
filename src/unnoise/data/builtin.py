"""Data sets that are here without any fetching: one entry of `BUILTIN` each, with a function that reads a split."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import points, sound, text
from .dataset import DataSet, Facts
from .splits import held_out

SHIPPED = Path(__file__).parent / "shipped"


class Rows(NamedTuple):
    """One split, as read: images uint8 levels (count, channel, height, width), labels int64 (count,)."""

    images: Tensor
    labels: Tensor
    captions: list[str] | None = None
    names: list[str] | None = None


class BuiltIn(NamedTuple):
    """Images are read by `read(split)`; sets of another kind open themselves: `open(split, size)`, of sounds
    `open(split, size, rate)`, size and rate as `load` was given them."""

    facts: Facts
    read: Callable[[str], Rows] | None = None
    open: Callable[..., DataSet] | None = None


def atlas(path: Path, count: int, height: int, width: int) -> Tensor:
    """The first `count` tiles of a sheet of tiles, row by row: uint8 (count, channel, height, width)."""
    with Image.open(path, formats=["PNG"]) as image:
        sheet = np.asarray(image)
    sheet = sheet.reshape(sheet.shape[0] // height, height, sheet.shape[1] // width, width, -1)
    tiles = sheet.transpose(0, 2, 4, 1, 3).reshape(-1, sheet.shape[-1], height, width)
    return torch.from_numpy(np.ascontiguousarray(tiles[:count]))


def _digits(split: str) -> Rows:
    from sklearn.datasets import load_digits  # a csv file of that package

    images, labels = map(np.asarray, load_digits(return_X_y=True))
    keep = held_out((f"digits/{i}" for i in range(len(labels))), one_in=6) == (split == "held-out")
    images = torch.from_numpy(images[keep].reshape(-1, 1, 8, 8).astype(np.uint8))
    return Rows(images, torch.from_numpy(labels[keep].astype(np.int64)))


def _fashion(split: str) -> Rows:
    labels = json.loads((SHIPPED / "fashion-mnist" / "labels.json").read_text())[split]
    labels = torch.tensor([int(digit) for digit in labels])
    return Rows(atlas(SHIPPED / "fashion-mnist" / f"{split}.png", len(labels), 28, 28), labels)


@cache
def _emoji_rows() -> list[dict[str, str]]:
    return json.loads((SHIPPED / "emoji" / "rows.json").read_text(encoding="utf-8"))


def _emoji(style: str, split: str) -> Rows:
    rows = _emoji_rows()
    keep = held_out(row["family"] for row in rows) == (split == "held-out")
    images = atlas(SHIPPED / "emoji" / f"{style}.png", len(rows), 32, 32)[torch.from_numpy(keep)]
    kept = [row for row, k in zip(rows, keep, strict=True) if k]
    labels = torch.tensor([EMOJI_CLASSES.index(row["category"]) for row in kept])
    return Rows(images, labels, [row["caption"] for row in kept], [row["name"] for row in kept])


EMOJI_CLASSES = (
    "Activities", "Animals & Nature", "Component", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip
DIGITS = tuple("0123456789")
FASHION = Facts(
    name="fashion-mnist",
    shape=(1, 28, 28),
    train=10_000,
    held_out=2_000,
    rule="the first 200 of each class of the test file (training: the first 1,000 of the training file)",
    licence="MIT",
    source="Zalando Research, a part of Fashion-MNIST",
    citation="Xiao, Rasul, Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms. "
    "arXiv:1708.07747, 2017.",
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
)  # fmt: skip


def _emoji_facts(style: str, licence: str, art: str) -> Facts:
    return Facts(
        name=f"emoji-{style}",
        shape=(3, 32, 32),
        train=1_727,
        held_out=184,
        rule="one in ten, by the sha256 of the code point (the first of those drawn alike); the same in both styles",
        licence=f"{licence} (art), MIT (names, captions)",
        source=f"{art}; emoji-data 16.0.0 (Cal Henderson); captions of emojibase 17.0.0 (Miles Johnson)",
        classes=EMOJI_CLASSES,
        captions=True,
    )


BUILTIN = {
    entry.facts.name: entry
    for entry in (
        BuiltIn(
            Facts(
                name="digits",
                shape=(1, 8, 8),
                train=1_504,
                held_out=293,
                rule="one in six, by the sha256 of 'digits/' and the row number",
                licence="CC BY 4.0",
                source="scikit-learn's copy of the test half of the UCI Optical Recognition of Handwritten Digits",
                citation="Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI, 1998. doi:10.24432/C50P49",
                classes=DIGITS,
                levels=17,
            ),
            _digits,
        ),
        BuiltIn(FASHION, _fashion),
        BuiltIn(
            _emoji_facts("twitter", "CC BY 4.0", "Twemoji (Twitter, Inc. and other contributors)"),
            lambda split: _emoji("twitter", split),
        ),
        BuiltIn(_emoji_facts("google", "Apache-2.0", "Noto Emoji (Google LLC)"), lambda split: _emoji("google", split)),
        BuiltIn(sound.WORDS, open=sound.spoken_digits),
        BuiltIn(text.SPEECHES, open=lambda split, size: text.load(text.SPEECHES.name, split, size)),
        *(BuiltIn(facts, open=partial(points.built_in, name)) for name, (facts, _) in points.BUILT_IN.items()),
    )
}
