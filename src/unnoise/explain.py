r"""What a run's objective asks of its model, and how well the model does it, at each log-SNR.

    loss = 1/2 int w(lambda) mean_d E(eps_guess - eps)^2 dlambda,        w = 2 u p

u is what a squared error of the noise is worth in one draw, p the density of the noise levels; only their product decides
what is learned. The errors are measured on held-out data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .denoisers import Denoiser
from .errors import UsageProblem
from .figures import draw
from .model import Model
from .objectives import Implied, Objective, implied_weighting
from .processes import Gaussian
from .rng import Rng
from .training import Run
from .training.checkpoint import load_into, read_tensors


@dataclass(frozen=True)
class Errors:
    """Square errors at each log-SNR (increasing), means over images and dimensions, and their standard errors over images.

    That of the noise is e^(log-SNR) times that of the data, whatever the network predicts.
    """

    log_snr: Tensor
    x0: Tensor
    x0_error: Tensor

    @property
    def eps(self) -> Tensor:
        return self.log_snr.exp() * self.x0

    @property
    def eps_error(self) -> Tensor:
        return self.log_snr.exp() * self.x0_error


def objective_of(model: Model) -> Objective:
    """The objective of a loaded run, with what it learned (distributions of noise levels that adapt)."""
    objective = model.recipe.lesson(model.spec)
    if model.source is not None:
        folder = Run.open(model.source["path"]).checkpoint_path(model.source["step"])
        load_into(objective.state_dict(), read_tensors(folder, "objective"), f"the objective of {folder}")
    return objective


def weighting_of(objective: Objective, denoiser: Denoiser, count: int = 400) -> Implied | str:
    """The weighting that an objective implies, or the sentence that says why it implies none."""
    try:
        return implied_weighting(objective, denoiser, count=count)
    except UsageProblem as problem:
        return str(problem)


def noise_levels(process: Any, count: int) -> tuple[Tensor, Tensor]:
    """`count` log-SNRs (increasing) from end to end of a process, within [-20, 20], and their times.

    A chain is looked at on its own steps. Raises UsageProblem for processes without one log-SNR.
    """
    if not isinstance(process, Gaussian):
        raise UsageProblem(
            f"a {type(process).__name__} process has no log-SNR, so its loss has no place to be shown at"
        )
    if count < 2:
        raise UsageProblem(f"{count} noise levels make no curve; take 2 or more")
    if process.by_frequency:
        raise UsageProblem(
            "this process has one log-SNR for each frequency, so there is no one axis to show its loss on"
        )
    schedule = process.schedule
    with torch.no_grad():
        ends = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).clamp(-20, 20)
        steps = getattr(schedule, "steps", None)
        if steps is not None:
            ends[1] = ends[1].clamp(max=float(schedule.log_snr(torch.tensor(1 / steps, dtype=torch.float64))))
        t = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64))
        if steps is not None:
            t = ((t * steps).round().clamp(1, steps) / steps).unique().flip(0)
        return schedule.log_snr(t), t


@torch.no_grad()
def errors(
    denoiser: Denoiser,
    batch: Callable[[int, int], tuple[Tensor, Any]],
    count: int,
    levels: int,
    *,
    seed: int = 0,
    batch_size: int = 128,
    watch: Callable[[int], object] = lambda done: None,
) -> Errors:
    """The errors of a denoiser on `count` images, each with its own noise, the same at every level.

    `batch(first, last)` gives images and conditions; `watch` is told how many (images, levels) are done.
    """
    process = denoiser.process
    log_snr, times = noise_levels(process, levels)
    found = []
    for first in range(0, count, batch_size):
        last = min(first + batch_size, count)
        x0, cond = batch(first, last)
        rng = Rng.from_seeds(range(seed + first, seed + last))
        x0, cond = denoiser.space.encode(x0, rng.spawn(1)), denoiser.space.told(cond)
        eps = rng.normal_like(x0)
        rows = []
        for t in times.tolist():
            at = torch.full((len(x0),), t, dtype=torch.float64)
            law: Any = process.marginal(x0, at)
            guess: Any = denoiser(law.mean + law.std.to(x0.dtype) * eps, at, cond)
            rows.append((guess.mean - x0).double().square().flatten(1).mean(1))
            watch(first * len(times) + len(rows) * len(x0))
        found.append(torch.stack(rows, 1))
    each = torch.cat(found)
    return Errors(log_snr, each.mean(0), each.std(0) / max(len(each), 2) ** 0.5 if len(each) > 1 else each[0] * 0)


def at(implied: Implied, values: Tensor, log_snr: Tensor) -> Tensor:
    """A curve of `implied` at other log-SNRs, linearly between its points."""
    grid = implied.log_snr
    i = torch.searchsorted(grid, log_snr).clamp(1, len(grid) - 1)
    share = ((log_snr - grid[i - 1]) / (grid[i] - grid[i - 1])).clamp(0, 1)
    return values[i - 1] + share * (values[i] - values[i - 1])


def summary(implied: Implied | str, measured: Errors) -> dict[str, Any]:
    """All numbers, for JSON: `curves` of the weighting, `measured` rows, the integral of the weighted loss."""
    rows: dict[str, Tensor] = {
        "log_snr": measured.log_snr,
        "eps": measured.eps,
        "eps_error": measured.eps_error,
        "x0": measured.x0,
        "x0_error": measured.x0_error,
    }
    told: dict[str, Any] = {
        "monotone": None,
        "reason": implied if isinstance(implied, str) else None,
        "curves": None,
        "loss": None,
    }
    if not isinstance(implied, str):
        rows["drawn"] = at(implied, implied.drawn, measured.log_snr)
        rows["on_eps"] = at(implied, implied.on_eps, measured.log_snr)
        rows["weight"] = at(implied, implied.weight, measured.log_snr)
        rows["loss"] = 0.5 * rows["weight"] * measured.eps
        rows["loss_error"] = 0.5 * rows["weight"] * measured.eps_error
        curves = {n: getattr(implied, n) for n in ("log_snr", "on_eps", "density", "drawn", "weight")}
        told |= {
            "monotone": implied.is_monotone,
            "curves": {name: _finite(values) for name, values in curves.items()},
            "loss": float(torch.trapezoid(rows["loss"], measured.log_snr)),
        }
    columns = {name: _finite(values) for name, values in rows.items()}
    told["measured"] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return told


def _finite(values: Tensor) -> list[float | None]:
    """JSON knows no infinity."""
    return [value if abs(value) < float("inf") else None for value in values.tolist()]


def picture(path: Path, implied: Implied | str, measured: Errors, title: str) -> None:
    """Weighting and noise levels; raw errors; where the loss is."""

    def weights(axes: Any) -> None:
        axes.set(title=title, xlabel="log-SNR")
        if isinstance(implied, str):
            axes.text(0.5, 0.5, "this objective implies no weighting", ha="center", transform=axes.transAxes)
            return
        curves = {
            "u: worth of an error of the noise": (implied.on_eps, "tab:green", "--"),
            "p: noise levels drawn": (implied.drawn, "tab:blue", "-"),
            f"w = 2up: {'monotone' if implied.is_monotone else 'not monotone'}": (implied.weight, "tab:red", "-"),
        }
        for label, (values, colour, line) in curves.items():
            axes.plot(implied.log_snr, values / values.max(), line, color=colour, label=label)
        axes.set(ylim=(0, 1.3), ylabel="relative to the largest")
        axes.legend(loc="upper right")

    def raw(axes: Any) -> None:
        for label, values, error in (
            ("noise", measured.eps, measured.eps_error),
            ("data", measured.x0, measured.x0_error),
        ):
            axes.errorbar(measured.log_snr, values, 2 * error, marker="o", label=label)
        axes.set(yscale="log", xlabel="log-SNR", ylabel="square error", title="held-out error, and two standard errors")
        axes.legend()

    def loss(axes: Any) -> None:
        axes.set(title="the loss, by where it is", xlabel="log-SNR", ylabel="per unit of log-SNR")
        if isinstance(implied, str):
            return
        w = at(implied, implied.weight, measured.log_snr)
        axes.errorbar(measured.log_snr, 0.5 * w * measured.eps, w * measured.eps_error, marker="o", color="tab:red")
        axes.set_ylim(bottom=0)

    draw(path, lambda a, b, c: (weights(a), raw(b), loss(c)), panels=3)
