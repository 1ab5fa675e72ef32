"""Figures of numbers: one style, drawn without a display, whole or not at all, the same bytes from the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .disk import write_whole

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: dict[RcKeyType, Any] = {
    "font.size": 9.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw(path: Path, paint: Callable[..., object], panels: int = 1, size: tuple[float, float] | None = None) -> None:
    """The PNG `path`, by `paint(axes, ...)`: one Axes of matplotlib for each panel, from left to right.

    `size` in inches of 120 pixels; 6 x 4 for one panel, 4.5 x 4 for each of several, if left out. Raises Problem where the
    disk refuses.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size or (6 if panels == 1 else 4.5 * panels, 4), dpi=120, layout="constrained")
        axes: Any = figure.subplots(1, panels, squeeze=False)[0]
        paint(*axes)
        with write_whole(path) as part:
            FigureCanvasAgg(figure).print_png(part, metadata={"Software": None})
