"""Spaces: where a process runs. The data themselves, or the latents of an autoencoder."""

from .latents import Latents
from .space import Space, in_data

__all__ = ["Latents", "Space", "in_data"]
