"""Objectives: what is compared, how errors are weighted, and at which times."""

from .adversarial import Adversarial
from .augment import Augmented
from .balance import balance
from .bound import Bound, Hybrid
from .bridge import BridgeMatching, HalfSteps
from .classifier import WithClassifier
from .consistency import Consistency
from .crop import Cropped
from .curved import HeatMatching, ImplicitMatching
from .encoded import Encoded
from .flip import Flipped
from .hinted import Hinted
from .matching import WEIGHTINGS, Matching
from .objective import Loss, Objective
from .orders import LeftToRight, OrderAgnostic
from .reconstruction import Criticised, Reconstruction
from .restoration import Restoration
from .score import Dequantised, Sliced
from .score_entropy import ScoreEntropy, SquaredRatios
from .times import (
    Adaptive,
    HalfLogNormal,
    LogNormal,
    LogUniform,
    LossSecondMoment,
    Stratified,
    Times,
    Uniform,
    UniformSteps,
)
from .velocity import VelocityMatching
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
    "ELBO", "P2", "VLB", "WEIGHTINGS", "Adaptive", "Adversarial", "Augmented", "Bound", "BridgeMatching", "Consistency",
    "Criticised", "Cropped", "Dequantised", "EDMLoss", "EDMMonotone", "Encoded", "Eps", "Flipped", "HalfLogNormal",
    "HalfSteps", "HeatMatching", "Hinted", "Hybrid", "ImplicitMatching", "Implied", "LeftToRight", "LogNormal", "LogUniform",
    "Loss", "LossSecondMoment", "Matching", "MinSNR", "Objective", "OrderAgnostic", "Reconstruction", "Restoration", "ScoreEntropy",
    "Sigmoid", "Sliced", "SquaredRatios", "Stratified", "Times", "TruncatedSNR", "Uniform", "UniformSteps", "VelocityMatching",
    "Weighting", "WithClassifier", "balance", "implied_weighting",
]  # fmt: skip
