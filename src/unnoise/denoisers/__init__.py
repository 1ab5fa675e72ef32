"""Denoisers: from x_t to a guess of x_0. A network, what its output means, and how its input is scaled."""

from .adversarial import AdversarialDenoiser
from .bridged import Bridged, BridgeFlow
from .clamp import clamped, prompted
from .classifier import ClassifyingDenoiser, classifier_guidance
from .denoiser import Denoiser, NetworkDenoiser
from .guidance import Guidance, Guided, classifier_free, clip, dynamic_threshold, guided
from .inverse import Measurement, colourisation, enlargement, imputation, inpainting, measured
from .jumping import Jumping, jump
from .matched import Matched
from .preconditioning import DDPM, EDM, IDDPM, VDM, VE, VP, Blind, Preconditioning, Raw, relation
from .ratio import RatioDenoiser
from .restorer import Restorer
from .symbols import Levels, NextSymbols, Symbols
from .tangent import Tangent
from .velocity import VelocityDenoiser

__all__ = [
    "DDPM",
    "EDM",
    "IDDPM",
    "VDM",
    "VE",
    "VP",
    "AdversarialDenoiser",
    "Blind",
    "BridgeFlow",
    "Bridged",
    "ClassifyingDenoiser",
    "Denoiser",
    "Guidance",
    "Guided",
    "Jumping",
    "Levels",
    "Matched",
    "Measurement",
    "NetworkDenoiser",
    "NextSymbols",
    "Preconditioning",
    "RatioDenoiser",
    "Raw",
    "Restorer",
    "Symbols",
    "Tangent",
    "VelocityDenoiser",
    "clamped",
    "classifier_free",
    "classifier_guidance",
    "clip",
    "colourisation",
    "dynamic_threshold",
    "enlargement",
    "guided",
    "imputation",
    "inpainting",
    "jump",
    "measured",
    "prompted",
    "relation",
]  # fmt: skip
