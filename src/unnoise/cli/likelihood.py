"""`unnoise likelihood RUN`: bits per dimension of held-out data, by the flow or by a bound."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import UsageProblem
from .parse import parse
from .show import Counter, print_json


@dataclass(frozen=True)
class LikelihoodForm:
    """-log2 of the probability that a run's model gives to images, in bits per dimension of their own grey levels.

    The flow gives a density, of images spread over the bins of their levels; continuous bounds it in continuous time,
    bound along the chain of steps, importance by several trajectories of the chain together, order-agnostic over all orders of
    symbols that are masked. Points have a density, by the measure of their manifold: -log of it is told in nats.
    RUN/likelihood.json keeps the result of each method.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A folder that `unnoise train` made."""
    method: Literal["flow", "continuous", "bound", "importance", "order-agnostic"] | None = None
    """How it is computed, or bounded; by the flow if left out, or as suits the model's process."""
    data: str | None = None
    """Other data than the run's own."""
    split: Literal["held-out", "train"] = "held-out"
    """Which of its images."""
    count: int = 128
    """Number of images, spread over the split."""
    seed: int = 0
    """Seed of the first image's random numbers."""
    unlabelled: bool = False
    """Leave the labels of a class-conditional model's data out."""
    solver: Literal["adaptive", "heun", "rk4"] | None = None
    """flow: adaptive steps, or --steps even ones in log-SNR."""
    steps: int | None = None
    """flow: of the solver heun or rk4; bound, importance: of the chain, all of them if left out; continuous: of a chain
    evenly spaced in log-SNR, without end if left out."""
    tolerance: float | None = None
    """flow: of the adaptive solver."""
    divergence: Literal["auto", "exact", "rademacher", "gaussian"] | None = None
    """flow: exact (as many gradients as an image has numbers), or estimated with random probes."""
    probes: int | None = None
    """flow: random probes for each image."""
    draws: int | None = None
    """flow: dequantised images for each; continuous: noise levels for each; order-agnostic: numbers of known symbols for each."""
    dequantise: Literal["uniform", "variational"] = "uniform"
    """flow: how a grey is spread over its bin: evenly, or as a small network learned that was trained for this, by its own
    bound on the train split, the first time it is asked for; RUN/dequantisers keeps it."""
    dequantise_steps: int | None = None
    """flow: steps of the variational dequantiser's training, 500 if left out."""
    samples: int | None = None
    """importance: trajectories for each image."""
    weights: str = "ema"
    """ema, model (as trained, without averaging), or ema-power-..."""
    step: int | None = None
    """The checkpoint of this step; the newest if left out."""
    batch_size: int = 32
    """Images at a time. It does not change their likelihoods."""
    json: bool = False
    """Print JSON for machines."""


OPTIONS = ("solver", "steps", "tolerance", "divergence", "probes", "draws", "samples")


def run(argv: list[str]) -> None:
    form = parse(LikelihoodForm, argv, "likelihood")
    if form.count < 1 or form.batch_size < 1:
        raise UsageProblem("--count and --batch-size must be 1 or more")
    if form.seed < 0:
        raise UsageProblem(f"--seed is {form.seed}, but a seed is 0 or more")
    from ..kinds import kind_of
    from ..model import Model

    if form.method is not None:
        method_of(form)  # options that it does not take are told before anything is read
    model = Model.load(form.run, form.weights, form.step)
    form = replace(form, method=form.method or model.denoiser.process.likelihood)
    method = method_of(form)
    data = images_of(model, form, form.split)
    if form.count > len(data):
        raise UsageProblem(f"--count is {form.count:,}, but {data.name} ({form.split}) has {len(data):,} {data.kind}")
    method, dequantiser = dequantised(model, form, method)
    bits, parts, calls = measure(model, form, method, data)
    result = summary(bits, parts, calls, math.prod(model.spec.shape)) | {
        "method": describe(method), "data": data.name, "split": form.split, "seed": form.seed, "levels": model.spec.levels,
        "unlabelled": form.unlabelled, "run": model.source, "dequantiser": dequantiser,
    }  # fmt: skip
    learned = form.dequantise == "variational"
    keep(form.run / "likelihood.json", f"{method.name}-variational" if learned else method.name, result)
    if form.json:
        print_json(result)
        return
    one = kind_of(model.spec).one
    rows = f"{form.count:,} {one if form.count == 1 else data.kind} of {data.name} ({form.split})"
    if data.kind == "points":
        print(f"{_told(result, 'nats', form.count)} nats, {rows}, by the measure of {data.manifold}")
    else:
        dimension = "character" if data.kind == "text" else "dimension"
        print(f"{_told(result, 'bits', form.count)} bits per {dimension} at most, {rows}")
    for part, value in result["parts"].items():
        print(f"  {part:<15}{value:9.4f}")
    if learned and dequantiser:
        print(f"  spread over their levels by a dequantiser of {dequantiser['steps']:,} steps in {dequantiser['path']}")
    each = f"{'an' if one[0] in 'aeiou' else 'a'} {one}"
    print(f"  {result['evaluations']:,.0f} evaluations {each}; written to {form.run / 'likelihood.json'}")


def _told(result: dict[str, Any], unit: str, count: int) -> str:
    error = "standard_error" if unit == "bits" else f"standard_error_{unit}"
    return f"{result[unit]:.4f}" + ("" if count == 1 else f" ± {result[error]:.4f}")


def method_of(form: LikelihoodForm) -> Any:
    """The method with the options that were given. Raises UsageProblem for those that it does not take."""
    from dataclasses import fields

    from ..likelihood import METHODS

    kind = METHODS[form.method or "flow"]
    known = {field.name for field in fields(kind)}
    given = {name: value for name in OPTIONS if (value := getattr(form, name)) is not None}
    for name in given:
        if name not in known:
            takes = ", ".join(f"--{option}" for option in OPTIONS if option in known)
            raise UsageProblem(f"--{name} is no option of --method {form.method}, which takes {takes}")
    if form.method != "flow" and (form.dequantise != "uniform" or form.dequantise_steps is not None):
        raise UsageProblem(
            f"--method {form.method} takes grey levels as they are; --dequantise belongs to --method flow"
        )
    if form.dequantise_steps is not None and form.dequantise != "variational":
        raise UsageProblem("--dequantise-steps trains the variational dequantiser; add --dequantise variational")
    if form.steps is not None and form.method == "flow" and form.solver in (None, "adaptive"):
        raise UsageProblem("--steps of the flow needs --solver heun or rk4; the adaptive solver takes --tolerance")
    return kind(**given)


def dequantised(model: Any, form: LikelihoodForm, method: Any) -> tuple[Any, dict[str, Any] | None]:
    """The method with the dequantiser that was asked for, and what is known of that."""
    if form.dequantise == "uniform":
        return method, {"name": "uniform"} if form.method == "flow" and model.spec.kind == "images" else None
    if model.spec.kind != "images":
        raise UsageProblem(
            f"grey levels are dequantised, and this model's data are {model.spec.kind}; leave --dequantise out"
        )

    from ..dequantisation import dequantiser_of

    data = images_of(model, form, "train")
    steps = {} if form.dequantise_steps is None else {"steps": form.dequantise_steps}
    learned, known = dequantiser_of(model, data, **steps, unlabelled=form.unlabelled)
    return replace(method, dequantiser=learned), known


def images_of(model: Any, form: LikelihoodForm, split: str) -> Any:
    """A split of the data, in the model's size and levels."""
    from ..data import load_like

    data = load_like(form.data or model.recipe.data, model.spec, split)
    if data.levels != model.spec.levels:
        raise UsageProblem(
            f"{data.name} has {data.levels} grey levels and this model's data have {model.spec.levels}, "
            "so their bits cannot be compared; choose other --data"
        )
    return data


def measure(model: Any, form: LikelihoodForm, method: Any, data: Any) -> tuple[Any, dict[str, Any], Any]:
    """Bits per dimension of each image, their parts, and evaluations."""
    import torch

    from ..likelihood import likelihood
    from ..rng import Rng

    rows = torch.linspace(0, len(data) - 1, form.count).round().long()
    found = []
    with Counter("likelihood", form.count, sys.stderr is not None) as counter:
        for first in range(0, form.count, form.batch_size):
            batch = data.batch(rows[first : first + form.batch_size])
            cond = None if form.unlabelled else model.recipe.condition(batch)
            rng = Rng.from_seeds(range(form.seed + first, form.seed + first + len(batch)))
            found.append(likelihood(model, batch.x, method, cond=cond, rng=rng))
            counter(first + len(batch))
    parts = {name: torch.cat([f.parts[name] for f in found]) for name in found[0].parts}
    return torch.cat([f.bits for f in found]), parts, torch.cat([f.evaluations for f in found])


def summary(bits: Any, parts: dict[str, Any], calls: Any, dimensions: int) -> dict[str, Any]:
    """Means over the rows, and the standard error of the first two; nats are those of a whole row."""
    count, in_nats = len(bits), dimensions * math.log(2)
    error = float(bits.std() / count**0.5) if count > 1 else 0.0
    return {
        "bits": float(bits.mean()),
        "standard_error": error,
        "nats": float(bits.mean()) * in_nats,
        "standard_error_nats": error * in_nats,
        "count": count,
        "parts": {name: float(value.mean()) for name, value in parts.items()},
        "evaluations": float(calls.double().mean()),
    }


def describe(method: Any) -> dict[str, Any]:
    """Its name and options, for JSON."""
    from dataclasses import fields, is_dataclass

    told: dict[str, Any] = {"name": method.name}
    for field in fields(method):
        value = getattr(method, field.name)
        plain = value is None or isinstance(value, (str, int, float))
        told[field.name] = value if plain else str(value) if is_dataclass(value) else type(value).__name__
    return told


def keep(path: Path, name: str, result: dict[str, Any]) -> None:
    """The results of every method so far, this one's renewed."""
    import json

    from .evaluate import write_result

    before = {}
    if path.exists():
        try:
            before = json.loads(path.read_text("utf-8"))["methods"]
        except (ValueError, KeyError, TypeError):
            before = {}
    write_result(path, {"methods": {**before, name: result}})
