"""Processes: how data is destroyed. No network, no loss, no solver inside."""

from .base import Moment, Process
from .basis import DCT, Basis, Identity
from .cold import Cold
from .curved import Curved
from .degradation import Animorphosis, Blur, Colours, Degradation, Mask, Pixelation, Snow
from .dissipation import Dissipating
from .gaussian import Gaussian, Point
from .graphs import GRAPHS, AbsorbGraph, Graph, UniformGraph
from .jump import GeometricTotal, Jump, JumpPoint, LogLinear, Ratios, TotalNoise

__all__ = [
    "DCT", "Animorphosis", "Basis", "Blur", "Cold", "Colours", "Curved", "Degradation", "Dissipating", "Gaussian", "Identity", "Mask",
    "Moment", "Pixelation", "Point", "Process", "Snow",
    "GRAPHS", "AbsorbGraph", "GeometricTotal", "Graph", "Jump", "JumpPoint", "LogLinear", "Ratios", "TotalNoise", "UniformGraph",
]  # fmt: skip
