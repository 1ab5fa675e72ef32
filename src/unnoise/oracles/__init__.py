"""Data whose exact denoiser, score and density are known: for tests, for studying samplers, for teaching."""

from .mixture import Mixture, MixtureDenoiser, finite_set, gaussian

__all__ = ["Mixture", "MixtureDenoiser", "finite_set", "gaussian"]
