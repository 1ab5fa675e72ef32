"""Samplers: the steps that walk back from noise to data, the grids they walk on, and the one loop that serves all."""

from .ancestral import DDIM, Ancestral
from .grids import GRIDS, Grid, Integers, Karras, LogSNR, Quadratic, Uniform
from .ladder import Ladder
from .langevin import AnnealedLangevin, Corrector, Langevin, PredictorCorrector
from .loop import SAMPLERS, Denoise, Step, sample
from .ode import Churn, Euler, Heun
from .sde import EulerMaruyama, ReverseDiffusion

__all__ = [
    "DDIM", "GRIDS", "SAMPLERS", "Ancestral", "AnnealedLangevin", "Churn", "Corrector", "Denoise", "Euler",
    "EulerMaruyama", "Grid", "Heun", "Integers", "Karras", "Ladder", "Langevin", "LogSNR", "PredictorCorrector",
    "Quadratic", "ReverseDiffusion", "Step", "Uniform", "sample",
]  # fmt: skip
