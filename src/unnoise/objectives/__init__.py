"""Objectives: what is compared, how errors are weighted, and at which times."""

from .augment import Augmented
from .bound import Bound, Hybrid
from .flip import Flipped
from .matching import WEIGHTINGS, Matching
from .objective import Loss, Objective
from .times import LogNormal, LossSecondMoment, Stratified, Times, Uniform, UniformSteps

__all__ = [
    "WEIGHTINGS", "Augmented", "Bound", "Flipped", "Hybrid", "LogNormal", "Loss", "LossSecondMoment", "Matching", "Objective",
    "Stratified", "Times", "Uniform", "UniformSteps",
]  # fmt: skip
