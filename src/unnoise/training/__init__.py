"""The training loop, the averages of the weights, and the folder of a run."""

from .interrupt import Interrupted
from .loop import Result, train
from .options import TrainingOptions
from .provenance import provenance
from .run import Run

__all__ = ["Interrupted", "Result", "Run", "TrainingOptions", "provenance", "train"]
