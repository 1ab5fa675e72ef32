"""Objectives: what is compared, how errors are weighted, and at which times."""

from .augment import Augmented
from .bound import Bound, Hybrid
from .classifier import WithClassifier
from .flip import Flipped
from .matching import WEIGHTINGS, Matching
from .objective import Loss, Objective
from .restoration import Restoration
from .score import Dequantised, Sliced
from .times import Adaptive, LogNormal, LossSecondMoment, Stratified, Times, Uniform, UniformSteps
from .vlb import VLB
from .weightings import (
    ELBO,
    P2,
    EDMLoss,
    EDMMonotone,
    Eps,
    Implied,
    MinSNR,
    Sigmoid,
    TruncatedSNR,
    Weighting,
    implied_weighting,
)

__all__ = [
    "ELBO", "P2", "VLB", "WEIGHTINGS", "Adaptive", "Augmented", "Bound", "Dequantised", "EDMLoss", "EDMMonotone", "Eps",
    "Flipped", "Hybrid", "Implied", "LogNormal", "Loss", "LossSecondMoment", "Matching", "MinSNR", "Objective", "Restoration",
    "Sigmoid", "Sliced", "Stratified", "Times", "TruncatedSNR", "Uniform", "UniformSteps", "Weighting", "WithClassifier",
    "implied_weighting",
]  # fmt: skip
