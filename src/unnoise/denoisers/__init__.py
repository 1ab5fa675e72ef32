"""Denoisers: from x_t to a guess of x_0. A network, what its output means, and how its input is scaled."""

from .denoiser import Denoiser, NetworkDenoiser
from .guidance import Guidance, Guided, classifier_free, clip, dynamic_threshold, guided
from .preconditioning import DDPM, EDM, IDDPM, VE, VP, Blind, Preconditioning, Raw, relation

__all__ = [
    "DDPM", "EDM", "IDDPM", "VE", "VP", "Blind", "Denoiser", "Guidance", "Guided", "NetworkDenoiser", "Preconditioning", "Raw",
    "classifier_free", "clip", "dynamic_threshold", "guided", "relation",
]  # fmt: skip
