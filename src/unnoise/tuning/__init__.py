"""Grid and solver chosen for one model and a number of evaluations: searched, fitted, kept with the run, used by sampling."""

from .kept import Tuned, kept, path_of
from .tune import bundle, search, tune, work

__all__ = ["Tuned", "bundle", "kept", "path_of", "search", "tune", "work"]
