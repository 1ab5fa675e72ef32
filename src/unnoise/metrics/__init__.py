"""Numbers about samples: how far from the data, how varied, how new; always on named features, always with a floor.

Distances take feature matrices (count, dimension), numpy or torch, and compute in float64. `features(name)` turns
images into such matrices. `evaluate` does the whole and gives a `Report`.
"""

from .classifiers import Classifier, classifier, classify, shipped
from .evaluation import evaluate
from .frechet import Moments, frechet_distance
from .kernel import RBF, cubic, kernel_distance, median_bandwidth
from .named import Features, features
from .neighbours import (
    PRDC,
    Memorisation,
    memorisation,
    nearest_neighbour_distance,
    nearest_neighbours,
    precision_recall_density_coverage,
)
from .report import Report, Row
from .wasserstein import sliced_wasserstein

__all__ = [
    "PRDC",
    "RBF",
    "Classifier",
    "Features",
    "Memorisation",
    "Moments",
    "Report",
    "Row",
    "classifier",
    "classify",
    "cubic",
    "evaluate",
    "features",
    "frechet_distance",
    "kernel_distance",
    "median_bandwidth",
    "memorisation",
    "nearest_neighbour_distance",
    "nearest_neighbours",
    "precision_recall_density_coverage",
    "shipped",
    "sliced_wasserstein",
]
