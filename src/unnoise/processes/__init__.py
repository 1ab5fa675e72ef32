"""Processes: how data is destroyed. No network, no loss, no solver inside."""

from .base import Process
from .basis import DCT, Basis, Identity
from .gaussian import Gaussian, Point

__all__ = ["DCT", "Basis", "Gaussian", "Identity", "Point", "Process"]
