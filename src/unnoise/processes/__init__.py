"""Processes: how data is destroyed. No network, no loss, no solver inside."""

from .base import Diffusion, Moment, Process
from .basis import DCT, Basis, Identity
from .bridge import Bridge
from .cold import Cold
from .curved import Curved
from .damped import CriticallyDamped
from .degradation import Animorphosis, Blur, Colours, Degradation, Mask, Pixelation, Snow
from .digits import Digits
from .dissipation import Dissipating
from .gaussian import Gaussian, Point
from .graphs import GRAPHS, AbsorbGraph, Graph, UniformGraph
from .jump import GeometricTotal, Jump, JumpPoint, LogLinear, Ratios, TotalNoise
from .linear import Kernel, LinearSDE
from .masking import Masked, Masking, Revealed

__all__ = [
    "DCT", "GRAPHS", "AbsorbGraph", "Animorphosis", "Basis", "Blur", "Bridge", "Cold", "Colours", "CriticallyDamped",
    "Curved", "Degradation", "Diffusion", "Digits", "Dissipating", "Gaussian", "GeometricTotal", "Graph", "Identity", "Jump",
    "JumpPoint", "Kernel", "LinearSDE", "LogLinear", "Mask", "Masked", "Masking", "Moment", "Pixelation", "Point", "Process",
    "Ratios", "Revealed", "Snow", "TotalNoise", "UniformGraph",
]  # fmt: skip
