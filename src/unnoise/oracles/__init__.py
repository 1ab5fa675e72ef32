"""Data whose exact denoiser, score and density are known: for tests, for studying samplers, for teaching."""

from .chain import density_output, divergence, even_grid, gaussian_output
from .coupled import Coupled, independent, joined, refitted, schroedinger
from .flow import GaussianFlow
from .mixture import Mixture, MixtureDenoiser, finite_set, gaussian
from .sequences import Joint, MarkovChain, SequenceDenoiser, Sequences
from .trigrams import Trigrams

__all__ = [
    "Coupled",
    "GaussianFlow",
    "Joint",
    "MarkovChain",
    "Mixture",
    "MixtureDenoiser",
    "SequenceDenoiser",
    "Sequences",
    "Trigrams",
    "density_output",
    "divergence",
    "even_grid",
    "finite_set",
    "gaussian",
    "gaussian_output",
    "independent",
    "joined",
    "refitted",
    "schroedinger",
]
