"""Named features: what a distance between images looks at. A number without the name of its features says nothing.

pixels                 the image itself, in [-1, 1], flattened
classifier:NAME        64 features of the classifier trained on the built-in set NAME
classifier             the same, NAME found by the shape of the images
package.module:name    your own callable: float32 images in [-1, 1] (N, C, H, W) to an array (N, D)
inception              2048 features of Inception-v3, through torch-fidelity where that is installed
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import Problem, UsageProblem, unknown
from .classifiers import classifier, classifier_for, classifier_name
from .images import Images, map_batches


@dataclass(frozen=True)
class Features:
    """A named map from images (N, C, H, W), uint8 or floats in [-1, 1], to a float64 matrix (N, D)."""

    name: str
    extract: Callable[[Images], Tensor]

    def __call__(self, images: Images) -> Tensor:
        found = self.extract(images)
        if found.ndim != 2 or len(found) != len(images):
            raise Problem(
                f"the features {self.name!r} must give one row per image, but gave {tuple(found.shape)} "
                f"for {len(images)} images: mend that function"
            )
        return found


def features(name: str, shape: tuple[int, ...] | None = None) -> Features:
    """The features called `name` (see the list above); `shape` (C, H, W) of the images resolves a bare "classifier".

    Raises UsageProblem for an unknown name or an import path that leads nowhere, Problem where a package is missing.
    """
    if name == "pixels":
        return Features(name, lambda images: map_batches(lambda x: x.flatten(1), images))
    if name == "inception":
        return Features(name, _inception())
    if name == "classifier":
        if shape is None:
            raise UsageProblem("'classifier' alone does not say which: write classifier:NAME, NAME a built-in set")
        name = f"classifier:{classifier_for(shape)}"
    kind, colon, rest = name.partition(":")
    if kind == "classifier":
        return Features(f"classifier:{classifier_name(rest)}", classifier(rest).features)
    if colon:
        return Features(name, _imported(name))
    raise unknown("features", name, ["pixels", "classifier", "classifier:NAME", "inception", "package.module:name"])


def _imported(path: str) -> Callable[[Images], Tensor]:
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module in the user's own folder, too, last of all
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UsageProblem(f"features {path!r} cannot be imported ({error}): write package.module:callable") from error
    if not callable(function):
        raise UsageProblem(f"features {path!r} is not callable: it must map images (N, C, H, W) to an array (N, D)")

    embed = cast("Callable[[Tensor], Tensor]", function)

    def told(x: Tensor) -> Tensor:
        try:
            return embed(x)
        except Exception as error:
            raise Problem(
                f"the features {path!r} failed on images {tuple(x.shape)} ({error}): mend that function"
            ) from error

    return lambda images: map_batches(told, images)


def _inception() -> Callable[[Images], Tensor]:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except (ImportError, RuntimeError, OSError) as error:
        raise Problem(
            "features 'inception' need torch-fidelity and a torchvision that imports here "
            f"({error}): pip install 'unnoise[inception]', or use features 'classifier'"
        ) from error
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval()

    def extract(x: Tensor) -> Tensor:
        return network(x.add(1).mul(127.5).round().to(torch.uint8).expand(-1, 3, -1, -1))[0]

    return lambda images: map_batches(extract, images)
