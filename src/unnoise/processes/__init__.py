"""Processes: how data is destroyed. No network, no loss, no solver inside."""

from .base import Process
from .basis import DCT, Basis, Identity
from .dissipation import Dissipating
from .gaussian import Gaussian, Point

__all__ = ["DCT", "Basis", "Dissipating", "Gaussian", "Identity", "Point", "Process"]
