"""Data whose exact denoiser, score and density are known: for tests, for studying samplers, for teaching."""

from .chain import density_output, divergence, even_grid, gaussian_output
from .coupled import Coupled, independent, joined, refitted, schroedinger
from .curved import ExactScore, HeatMixture, ZonalMixture, uniform, von_mises_fisher
from .flow import GaussianFlow
from .mixture import Mixture, MixtureDenoiser, finite_set, gaussian
from .sequences import Joint, MarkovChain, SequenceDenoiser, Sequences
from .trigrams import Trigrams

__all__ = [
    "Coupled",
    "ExactScore",
    "GaussianFlow",
    "HeatMixture",
    "Joint",
    "MarkovChain",
    "Mixture",
    "MixtureDenoiser",
    "SequenceDenoiser",
    "Sequences",
    "Trigrams",
    "ZonalMixture",
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
    "uniform",
    "von_mises_fisher",
]
