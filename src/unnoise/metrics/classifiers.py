"""The small classifiers that ship with the project: their features are what Frechet and kernel distances look at.

One per built-in data set, trained by `scripts/train_classifiers.py`, kept beside this file as safetensors with a card
(JSON: accuracy, recipe, fingerprint of the data, sha256 of the weights).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Problem, unknown
from .images import Images, map_batches

WEIGHTS = Path(__file__).parent / "weights"


def _stage(inputs: int, outputs: int, halve: bool) -> nn.Module:
    pool = [nn.MaxPool2d(2)] if halve else []
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), *pool, nn.BatchNorm2d(outputs), nn.SiLU()
    )


class Classifier(nn.Module):
    """Convolutions, the mean over places, `feature_dim` features, then logits.

    `forward` gives logits (batch, classes). `embed` gives the features (batch, feature_dim): the last linear layer
    before the logits, shifted and scaled so that over the training set their mean is 0 and their mean variance 1. So
    a Frechet distance of `feature_dim` is as far as the data's own spread.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...] = (32, 64, 128, 128), feature_dim: int = 64
    ):
        super().__init__()
        sizes = (channels, *widths)
        self.trunk = nn.Sequential(*(_stage(a, b, halve=i < 2) for i, (a, b) in enumerate(pairwise(sizes))))
        self.project = nn.Linear(widths[-1], feature_dim)
        self.head = nn.Linear(feature_dim, classes)
        self.register_buffer("center", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(()))
        self.card: dict[str, Any] = {}
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # twice as fast on a CPU

    def _features(self, x: Tensor) -> Tensor:
        return self.project(self.trunk(x.contiguous(memory_format=torch.channels_last)).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.silu(self._features(x)))

    def embed(self, x: Tensor) -> Tensor:
        return (self._features(x) - self.center) / self.scale

    def _checked(self, images: Images) -> Images:
        shape = tuple(self.card.get("image_shape", images.shape[1:]))
        if tuple(images.shape[1:]) != shape:
            raise Problem(
                f"the {self.card['name']} classifier takes images of {shape}, not {tuple(images.shape[1:])}: "
                "choose other features, such as 'pixels'"
            )
        return images

    def features(self, images: Images) -> Tensor:
        """float64 (N, feature_dim) of images (N, C, H, W), uint8 or in [-1, 1]."""
        return map_batches(self.embed, self._checked(images))

    def classify(self, images: Images) -> Tensor:
        """Class probabilities, float64 (N, classes), of images (N, C, H, W), uint8 or in [-1, 1]."""
        return map_batches(lambda x: self(x).softmax(1), self._checked(images))


@cache
def shipped() -> dict[str, dict[str, Any]]:
    """The cards of the classifiers that are here, by name; `card["data"]` lists the data sets of each."""
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(WEIGHTS.glob("*.json"))]
    return {card["name"]: card for card in cards}


def classifier_name(data: str) -> str:
    """The classifier that was trained on the data set `data`; UsageProblem when there is none."""
    by_data = {known: name for name, card in shipped().items() for known in (name, *card["data"])}
    if data not in by_data:
        raise unknown("classifier", data, by_data)
    return by_data[data]


@cache
def classifier(name: str) -> Classifier:
    """The shipped classifier of the data set `name`, in evaluation mode, with its `card`.

    It is shared by all who ask: do not train it. Raises UsageProblem for a name that has none, Problem when
    the weights are missing or are not those of the card.
    """
    from safetensors.torch import load

    card = shipped()[classifier_name(name)]
    path = WEIGHTS / f"{card['name']}.safetensors"
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != card["weights_sha256"]:
        raise Problem(f"{path} is missing or is not the file its card describes: install unnoise again")
    channels = card["image_shape"][0]
    network = Classifier(channels, len(card["classes"]), tuple(card["widths"]), card["feature_dim"])
    network.load_state_dict(load(data))
    network.card = card
    return network.eval().requires_grad_(False)


def classifier_for(shape: tuple[int, ...]) -> str:
    """The name of the shipped classifier that takes images of `shape` (C, H, W); Problem when there is none."""
    for name, card in shipped().items():
        if tuple(card["image_shape"]) == tuple(shape):
            return name
    raise Problem(
        f"no shipped classifier takes images of {tuple(shape)}: choose 'pixels' or your own package.module:name"
    )


def classify(images: Images, name: str | None = None) -> Tensor:
    """Class probabilities, float64 (N, classes), by the classifier of the set `name`, or the one for that shape."""
    return classifier(name or classifier_for(tuple(images.shape[1:]))).classify(images)
