r"""Pictures of points: the earth in Mollweide's projection, where equal areas look equal, angles as Ramachandran drew them, and
rotations by histograms of their roll, pitch and yaw.

x = (2 sqrt 2 / pi) lon cos theta,   y = sqrt 2 sin theta,      2 theta + sin 2 theta = pi sin lat
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

LAND = Path(__file__).parent / "data" / "shipped" / "earth" / "land.json"
GREY = "#9aa4ad"


def mollweide(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x in [-2 sqrt 2, 2 sqrt 2] and y in [-sqrt 2, sqrt 2] of latitudes and longitudes in degrees."""
    phi, lam = np.radians(lat), np.radians(lon)
    theta = phi.copy()
    for _ in range(30):  # Newton's steps; at the poles, where the slope is 0, they shrink by halves
        slope = np.maximum(2 + 2 * np.cos(2 * theta), 1e-12)
        theta = np.clip(theta - (2 * theta + np.sin(2 * theta) - np.pi * np.sin(phi)) / slope, -np.pi / 2, np.pi / 2)
    return 2 * np.sqrt(2) / np.pi * lam * np.cos(theta), np.sqrt(2) * np.sin(theta)


@cache
def land() -> list[np.ndarray]:
    """Outlines of the land, each (n, 2): longitude and latitude in degrees, cut where they cross the date line. Natural Earth's."""
    lines = [np.array(line) / 100 for line in json.loads(LAND.read_text())]
    return [part for line in lines for part in np.split(line, np.flatnonzero(np.abs(np.diff(line[:, 0])) > 180) + 1)]


def draw_map(axes: Any, degrees: Tensor, title: str = "", colour: str = "#c0392b", size: float | None = None) -> None:
    """Points (n, 2), latitude and longitude in degrees, on a map of the land."""
    edge = np.linspace(-90, 90, 181)
    for lon in range(-180, 181, 60):
        axes.plot(*mollweide(edge, np.full_like(edge, lon)), color=GREY, linewidth=0.9 if abs(lon) == 180 else 0.25)
    for lat in range(-60, 61, 30):
        axes.plot(*mollweide(np.full(2, lat), np.array([-180.0, 180.0])), color=GREY, linewidth=0.25)
    for line in land():
        axes.plot(*mollweide(line[:, 1], line[:, 0]), color="#4d5b66", linewidth=0.4)
    x, y = mollweide(*degrees.double().numpy().T)
    axes.scatter(x, y, s=size or max(0.6, min(8, 6000 / len(x))), c=colour, alpha=0.45, linewidths=0, zorder=3)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(title)


def draw_angles(
    axes: Any, degrees: Tensor, title: str = "", colour: str = "#2c6fbb", size: float | None = None
) -> None:
    """Points (n, 2), the angles phi and psi in degrees, in the square."""
    axes.scatter(
        *degrees.double().numpy().T, s=size or max(0.6, min(8, 8000 / len(degrees))), c=colour, alpha=0.4, linewidths=0
    )
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="phi", ylabel="psi", title=title, aspect="equal")
    axes.set_xticks(range(-180, 181, 90))
    axes.set_yticks(range(-180, 181, 90))


def draw_turns(axes: Sequence[Any], shown: dict[str, Tensor], bins: int = 72) -> None:
    """Histograms, on three axes, of the roll, pitch and yaw of rotations (n, 9): the first filled, others as lines."""
    from .data.charts import charts

    own = charts("so3")[1]
    for which, (title, points) in enumerate(shown.items()):
        looks: dict[str, Any] = (
            {"color": "#9cc3e6", "alpha": 0.9} if which == 0 else {"histtype": "step", "linewidth": 1.2}
        )
        if which == 1:
            looks["color"] = "#c0392b"
        for panel, name, values in zip(axes, own.names, own.table(points).T, strict=True):
            half = 90 if name == "pitch" else 180
            panel.hist(values.numpy(), bins=bins, range=(-half, half), density=True, label=title or None, **looks)
            panel.set(xlabel=f"{name}, degrees", xlim=(-half, half), yticks=[])
            panel.set_xticks(range(-half, half + 1, half // 2))
    if len(shown) > 1:
        axes[0].legend()
