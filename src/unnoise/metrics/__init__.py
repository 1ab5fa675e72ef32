"""Numbers about samples: how far from the data, how varied, how new; always on named features, always with a floor.

Distances take feature matrices (count, dimension), numpy or torch, and compute in float64. `features(name)` turns
images into such matrices. `evaluate` does the whole and gives a `Report`.
"""

from unnoise.metrics.classifiers import Classifier, classifier, classify, shipped
from unnoise.metrics.evaluation import evaluate
from unnoise.metrics.frechet import Moments, frechet_distance
from unnoise.metrics.kernel import RBF, cubic, kernel_distance, median_bandwidth
from unnoise.metrics.named import Features, features
from unnoise.metrics.neighbours import (
    PRDC,
    Memorisation,
    memorisation,
    nearest_neighbour_distance,
    nearest_neighbours,
    precision_recall_density_coverage,
)
from unnoise.metrics.report import Report, Row
from unnoise.metrics.wasserstein import sliced_wasserstein

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
