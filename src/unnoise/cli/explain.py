"""`unnoise explain RUN`: what its objective weights, which noise levels it draws, and where its loss is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import UsageProblem
from .parse import parse
from .show import Counter, print_json, print_table


@dataclass(frozen=True)
class ExplainForm:
    """How a run's objective weights each log-SNR, and the errors of its model there, measured on held-out images.

    Any loss of denoising is 1/2 int w |eps_guess - eps|^2 over log-SNR, and w = 2 u p: what an error of the noise is worth in
    one draw, times the density of the noise levels. Where w never rises with log-SNR the loss is a likelihood bound on noisy
    data. Draws RUN/pictures/explain.png and writes RUN/explain.json.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A folder that `unnoise train` made."""
    data: str | None = None
    """Other data than the run's own."""
    split: Literal["held-out", "train"] = "held-out"
    """Which of its images."""
    count: int = 256
    """Number of images, spread over the split."""
    levels: int = 25
    """Noise levels at which the errors are measured."""
    seed: int = 0
    """Seed of the first image's noise."""
    unlabelled: bool = False
    """Leave the labels of a class-conditional model's data out."""
    weights: str = "ema"
    """ema, model (as trained, without averaging), or ema-power-..."""
    step: int | None = None
    """The checkpoint of this step; the newest if left out."""
    batch_size: int = 128
    """Images at a time. It does not change the errors."""
    json: bool = False
    """Print JSON for machines."""


def run(argv: list[str]) -> None:
    form = parse(ExplainForm, argv, "explain")
    if form.count < 1 or form.batch_size < 1:
        raise UsageProblem("--count and --batch-size must be 1 or more")
    if form.seed < 0:
        raise UsageProblem(f"--seed is {form.seed}, but a seed is 0 or more")
    if form.levels < 2:
        raise UsageProblem("--levels must be 2 or more")
    from ..explain import objective_of, picture, summary, weighting_of
    from ..model import Model

    model = Model.load(form.run, form.weights, form.step)
    objective = objective_of(model)
    measured, name = measure(model, form)
    implied = weighting_of(objective, model.denoiser)
    shown = form.run / "pictures" / "explain.png"
    picture(shown, implied, measured, f"{model.recipe.slug}: {type(objective).__name__}")
    result = {
        "paper": model.recipe.slug, "objective": type(objective).__name__, **summary(implied, measured), "data": name,
        "split": form.split, "count": form.count, "seed": form.seed, "unlabelled": form.unlabelled, "run": model.source,
        "picture": str(shown),
    }  # fmt: skip
    from .evaluate import write_result

    write_result(form.run / "explain.json", result)
    if form.json:
        print_json(result)
        return
    tell(result)
    print(f"drawn in {shown}, written to {form.run / 'explain.json'}")


def measure(model: Any, form: ExplainForm) -> tuple[Any, str]:
    """The errors on the images that were asked for, and the name of the data."""
    import torch

    from ..data import load_like
    from ..explain import errors, noise_levels

    levels = len(noise_levels(model.denoiser.process, form.levels)[0])
    data = load_like(form.data or model.recipe.data, model.spec, form.split)
    if form.count > len(data):
        raise UsageProblem(f"--count is {form.count:,}, but {data.name} ({form.split}) has {len(data):,} images")
    rows = torch.linspace(0, len(data) - 1, form.count).round().long()

    def batch(first: int, last: int) -> tuple[Any, Any]:
        images = data.batch(rows[first:last])
        return images.x, None if form.unlabelled else model.recipe.condition(images)

    with Counter("explain", form.count * levels, sys.stderr is not None) as counter:
        found = errors(
            model.denoiser, batch, form.count, form.levels, seed=form.seed, batch_size=form.batch_size, watch=counter
        )
    return found, data.name


def tell(result: dict[str, Any]) -> None:
    """The rows, and what they mean, for people."""
    columns = {"log_snr": "log-SNR", "eps": "error of noise", "x0": "error of data"}
    if result["curves"] is not None:
        columns |= {"drawn": "p drawn", "on_eps": "u", "weight": "w = 2up", "loss": "loss, per log-SNR"}
    rows = [[number(row[name]) for name in columns] for row in result["measured"]]
    print_table(list(columns.values()), rows, right=tuple(columns.values()))
    if result["curves"] is None:
        print(result["reason"])
    elif result["monotone"]:
        print(
            f"The loss is {result['loss']:.4g}. Its weighting is monotone: the likelihood bound of data with noise added."
        )
    else:
        print(f"The loss is {result['loss']:.4g}. Its weighting is not monotone: it rises somewhere with log-SNR.")


def number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.4g}"
