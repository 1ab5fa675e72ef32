"""Samplers: the steps that walk back from noise to data, the grids they walk on, and the one loop that serves all."""

from .ancestral import DDIM, Ancestral
from .grids import GRIDS, Grid, Integers, Karras, LogSNR, Quadratic, Uniform
from .loop import SAMPLERS, Denoise, Step, sample
from .ode import Churn, Euler, Heun

__all__ = [
    "DDIM", "GRIDS", "SAMPLERS", "Ancestral", "Churn", "Denoise", "Euler", "Grid", "Heun", "Integers", "Karras", "LogSNR",
    "Quadratic", "Step", "Uniform", "sample",
]  # fmt: skip
